package report

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bothy-edge/bothy/updater/release"
)

// The kinds of event that tell of orders.
const (
	AnswerEvent = "order"
	LogsEvent   = "logs"
)

// Outcome says what became of an order.
type Outcome string

// The outcomes. The values are on the wire and in the fleet's folder.
const (
	Done        Outcome = "done"
	Failed      Outcome = "failed"      // it was tried
	Refused     Outcome = "refused"     // it must not be carried out
	Interrupted Outcome = "interrupted" // the agent stopped over it; it is not tried again
)

// Answer is the body of an AnswerEvent. Number and Kind are those of a verified
// order; a refusal of what nobody could verify has none.
type Answer struct {
	Number  uint64            `json:"number,omitempty"`
	Kind    release.OrderKind `json:"kind,omitempty"`
	Outcome Outcome           `json:"outcome"`
	Code    string            `json:"code,omitempty"`   // of a refusal
	Detail  string            `json:"detail,omitempty"` // for people
}

// Bounds of a bundle of log lines on its way, in bytes.
const (
	LogPartSize = 24 << 10 // in an event, twice in base64, it stays below a control packet
	MaxLogs     = 640 << 10
	maxLogParts = MaxLogs/LogPartSize + 1
)

// LogPart is the body of a LogsEvent: a piece of a compressed bundle.
type LogPart struct {
	Number uint64 `json:"number"` // of the order
	Part   int    `json:"part"`   // from 0
	Parts  int    `json:"parts"`
	SHA256 string `json:"sha256"` // of the whole bundle
	Data   []byte `json:"data"`
}

// Cut is the answer within the bounds of an event.
func (a Answer) Cut() Answer {
	a.Kind, a.Code, a.Detail = release.OrderKind(name(string(a.Kind))), name(a.Code), clean(a.Detail, 4*maxText)
	return a
}

// ParseAnswer reads the body of an AnswerEvent of a device.
func ParseAnswer(raw []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("cannot read an answer to an order: %w", err)
	}
	switch a.Outcome {
	case Done, Failed, Refused, Interrupted:
		return a.Cut(), nil
	}
	return Answer{}, fmt.Errorf("cannot read an answer to an order: outcome %.40q", a.Outcome)
}

// ParseLogPart reads the body of a LogsEvent of a device.
func ParseLogPart(raw []byte) (LogPart, error) {
	var p LogPart
	if len(raw) > 2*LogPartSize {
		return p, fmt.Errorf("cannot read a part of a log: %d bytes, at most %d are accepted", len(raw), 2*LogPartSize)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return LogPart{}, fmt.Errorf("cannot read a part of a log: %w", err)
	}
	if p.Parts < 1 || p.Parts > maxLogParts || p.Part < 0 || p.Part >= p.Parts || len(p.Data) == 0 || len(p.Data) > LogPartSize {
		return LogPart{}, errors.New("cannot read a part of a log: its numbers make no sense")
	}
	return p, release.CheckDigest(p.SHA256)
}
