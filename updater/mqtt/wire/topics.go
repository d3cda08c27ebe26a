package wire

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// BulkSuffix marks the client id of a second connection; no device or depot may end in it.
const BulkSuffix = "-bulk"

// Topics names every topic of one tenant. The broker's access lists are written against these.
type Topics struct {
	Tenant string
	Device string // empty on the fleet side
}

// CheckID says whether s can be a tenant, device or depot: 1 to 64 of
// a-z A-Z 0-9 . _ -, not starting with a dot, and without the reserved suffix.
func CheckID(s string) error {
	if s == "" || len(s) > 64 || s[0] == '.' || strings.HasSuffix(s, BulkSuffix) {
		return fmt.Errorf("cannot use %q as an identity: it must have 1 to 64 characters, not start with a dot and not end in %s", s, BulkSuffix)
	}
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return fmt.Errorf("cannot use %q as an identity: character %q is not allowed", s, r)
		}
	}
	return nil
}

func (t Topics) root() string { return "bothy/1/" + t.Tenant + "/" }

func (t Topics) device(leaf string) string { return t.root() + "d/" + t.Device + "/" + leaf }

// All is the filter of everything of the tenant.
func (t Topics) All() string { return t.root() + "#" }

// For is the same tenant seen from one device.
func (t Topics) For(device string) Topics { return Topics{Tenant: t.Tenant, Device: device} }

// Want carries the director's signed timestamp for the device. Retained.
func (t Topics) Want() string { return t.device("want") }

// Catalog carries the catalog's signed timestamp, for every device. Retained.
func (t Topics) Catalog() string { return t.root() + "catalog" }

// State carries what the device runs, signed by the device. Retained.
func (t Topics) State() string { return t.device("state") }

// Event carries the device's outbox, one signed record a message.
func (t Topics) Event() string { return t.device("event") }

// Online is the device's presence and its last will. Retained.
func (t Topics) Online() string { return t.device("online") }

// Command carries signed orders to the device.
func (t Topics) Command() string { return t.device("cmd") }

// CertificateRequest carries the device's request for its next certificate, signed by the device.
func (t Topics) CertificateRequest() string { return t.device("csr") }

// Certificate carries the device's next certificate.
func (t Topics) Certificate() string { return t.device("cert") }

// EnrollRequest carries the request of a box that has a token; EnrollAnswer the fleet's answer.
func (t Topics) EnrollRequest(token string) string { return t.root() + "enroll/" + token + "/csr" }

// EnrollAnswer carries the fleet's answer to the holder of a token.
func (t Topics) EnrollAnswer(token string) string { return t.root() + "enroll/" + token + "/cert" }

// EnrollTokenOf returns the token that an enrolment request's topic belongs to.
func (t Topics) EnrollTokenOf(topic string) (string, bool) {
	rest, ok := strings.CutPrefix(topic, t.root()+"enroll/")
	if !ok {
		return "", false
	}
	token, ok := strings.CutSuffix(rest, "/csr")
	return token, ok && CheckID(token) == nil
}

// Reply carries a depot's frames to the device.
func (t Topics) Reply() string { return t.device("rx") }

// Info carries what a depot can do. Retained.
func (t Topics) Info(depot string) string { return t.root() + "p/" + depot + "/info" }

// Request carries the device's requests to a depot.
func (t Topics) Request(depot string) string { return t.root() + "p/" + depot + "/req/" + t.Device }

// Requests is the filter of a depot for the requests of every device.
func (t Topics) Requests(depot string) string { return t.root() + "p/" + depot + "/req/+" }

// Probe is where a depot sends frames to itself to find out what the broker lets through.
func (t Topics) Probe(depot string) string { return t.root() + "p/" + depot + "/probe" }

// Cast carries one stream of a blob for every device that may have it. id is the
// first half of the blob's SHA-256. Only the depot may write it, and only devices
// whose set names the blob may read it: the broker's access list is the one guard.
func (t Topics) Cast(id [16]byte) string {
	return t.root() + "b/" + hex.EncodeToString(id[:]) + "/cast"
}

// Feedback carries what the device says of a cast that it listens to. A device
// may write its own, whatever the blob; only the depot reads it.
func (t Topics) Feedback(id [16]byte) string {
	return t.root() + "b/" + hex.EncodeToString(id[:]) + "/fb/" + t.Device
}

// Feedbacks is the filter of a depot for the feedback of every device on every cast.
func (t Topics) Feedbacks() string { return t.root() + "b/+/fb/+" }

// AnyDevice is the filter for one leaf ("state", "event", "online") of every device.
func (t Topics) AnyDevice(leaf string) string { return t.root() + "d/+/" + leaf }

// DeviceOf returns the device that a topic belongs to: the only source of a
// reply address, since a payload may say anything.
func (t Topics) DeviceOf(topic string) (string, bool) {
	rest, ok := strings.CutPrefix(topic, t.root())
	if !ok {
		return "", false
	}
	p := strings.Split(rest, "/")
	switch {
	case len(p) == 3 && p[0] == "d":
		return p[1], CheckID(p[1]) == nil
	case len(p) == 4 && p[0] == "p" && p[2] == "req":
		return p[3], CheckID(p[3]) == nil
	case len(p) == 4 && p[0] == "b" && p[2] == "fb":
		return p[3], CheckID(p[3]) == nil
	}
	return "", false
}
