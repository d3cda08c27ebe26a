package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// commandDepth is how many orders may wait; they come one by one from a person.
const commandDepth = 64

// Presence is what a device or its last will says on its online topic.
type Presence struct {
	V      int    `json:"v"` // 1
	Online bool   `json:"online"`
	Epoch  uint64 `json:"epoch"` // of the device's start; a receiver drops what is older than the last it saw
}

// maxPresence bounds a presence, in bytes.
const maxPresence = 1 << 10

// ParsePresence reads the presence of a device. Nobody signs it.
func ParsePresence(b []byte) (Presence, error) {
	var p Presence
	if len(b) > maxPresence {
		return p, fmt.Errorf("cannot read presence: %d bytes, at most %d are accepted", len(b), maxPresence)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Presence{}, fmt.Errorf("cannot read presence: %w", err)
	}
	if p.V != 1 {
		return Presence{}, fmt.Errorf("cannot read presence: version %d, this bothy reads 1", p.V)
	}
	return p, nil
}

// Device is the control connection of a device: presence, offers and orders.
type Device struct {
	*Session
	topics wire.Topics

	offers   chan struct{} // capacity 1: look again
	commands chan Message
	certs    chan Message // capacity 1: the next certificate, asked for one at a time

	mu      sync.Mutex
	want    []byte
	catalog []byte
}

// NewDevice prepares the control connection. epoch must be greater than at any
// earlier start of this device. cfg's client id, will and subscriptions are set here.
func NewDevice(cfg Config, t wire.Topics, epoch uint64) (*Device, error) {
	if err := errors.Join(wire.CheckID(t.Tenant), wire.CheckID(t.Device)); err != nil {
		return nil, err
	}
	d := &Device{topics: t, offers: make(chan struct{}, 1), commands: make(chan Message, commandDepth), certs: make(chan Message, 1)}
	gone, here := presence(false, epoch), presence(true, epoch)
	cfg.ClientID = t.Device
	cfg.Will = &Message{Topic: t.Online(), QoS: 1, Retain: true, Payload: gone}
	cfg.Farewell = cfg.Will
	cfg.Subscriptions = []Subscription{
		{Filter: t.Want(), QoS: 1, Handle: func(m Message) bool { return d.offer(&d.want, m) }},
		{Filter: t.Catalog(), QoS: 1, Handle: func(m Message) bool { return d.offer(&d.catalog, m) }},
		{Filter: t.Command(), QoS: 1, Handle: Into(d.commands)},
		{Filter: t.Certificate(), QoS: 1, Handle: Into(d.certs)},
	}
	s, err := New(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the control connection: %w", err)
	}
	s.Retain(t.Online(), here)
	d.Session = s
	return d, nil
}

func presence(online bool, epoch uint64) []byte {
	b, _ := json.Marshal(Presence{V: 1, Online: online, Epoch: epoch}) // three plain fields cannot fail
	return b
}

func (d *Device) offer(field *[]byte, m Message) bool {
	d.mu.Lock()
	*field = m.Payload
	d.mu.Unlock()
	select {
	case d.offers <- struct{}{}:
	default: // one look takes both
	}
	return true
}

// Offers tells that the want or the catalog arrived: time to refresh. Many
// arrivals may be told of once.
func (d *Device) Offers() <-chan struct{} { return d.offers }

// Offered is the latest timestamps as they came: unverified, and nil before the first.
func (d *Device) Offered() (want, catalog []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.want, d.catalog
}

// Commands carries orders as they came: unverified.
func (d *Device) Commands() <-chan Message { return d.commands }

// Certificates carries the fleet's answers to RequestCertificate as they came: unverified.
func (d *Device) Certificates() <-chan Message { return d.certs }

// RequestCertificate sends the device's signed request for its next certificate.
func (d *Device) RequestCertificate(ctx context.Context, request []byte) error {
	return d.Publish(ctx, d.topics.CertificateRequest(), 1, false, request)
}

// Report sets the device's retained state; it is sent now and on every new connection.
func (d *Device) Report(state []byte) { d.Retain(d.topics.State(), state) }

// Run keeps the connection until ctx ends, then says that the device is gone.
func (d *Device) Run(ctx context.Context) error { return d.Session.Run(ctx) }
