package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// The events of a record.
const (
	Departed = "departed" // a request is about to leave the box
	Finished = "finished" // a request got its answer or its error
	Reset    = "reset"    // the chain begins anew, because Open set a damaged file aside
)

// Record is one line. The log fills Seq, Time, Lost and Prev.
type Record struct {
	Seq   uint64    `json:"seq"`
	Time  time.Time `json:"time"`
	Event string    `json:"event"`

	Request   string `json:"request,omitempty"` // x-request-id
	UID       uint32 `json:"uid"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Exe       string `json:"exe,omitempty"`

	API     string   `json:"api,omitempty"`
	Model   string   `json:"model,omitempty"`
	Release string   `json:"release,omitempty"`
	Place   string   `json:"place,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Rule    string   `json:"rule,omitempty"`
	Classes []string `json:"classes,omitempty"`
	Kinds   []string `json:"kinds,omitempty"` // what the detectors found, never the text

	BytesIn   int64   `json:"bytes_in,omitempty"`
	BytesOut  int64   `json:"bytes_out,omitempty"`
	TokensIn  int     `json:"tokens_in,omitempty"`
	TokensOut int     `json:"tokens_out,omitempty"`
	Status    int     `json:"status,omitempty"`
	Code      string  `json:"code,omitempty"` // of the error, as in the answer's error object
	Queued    float64 `json:"queued_s,omitempty"`
	First     float64 `json:"first_s,omitempty"` // until the first content byte
	Took      float64 `json:"took_s,omitempty"`

	Lost uint64 `json:"lost,omitempty"` // records dropped since the one before, because they could not be written
	Prev string `json:"prev"`           // SHA-256 of the line before, without its newline, in hex
}

// clip bounds what clients and policies name, in bytes, so that a line is shorter
// than maxLine even where every byte is escaped as six.
func (r *Record) clip() {
	for field, most := range map[*string]int{&r.Model: 512, &r.Release: 512, &r.Unit: 512, &r.Container: 512, &r.Exe: 4096, &r.Rule: 2048} {
		*field = (*field)[:min(len(*field), most)]
	}
}

// Head names the end of the chain: what a fleet keeps to prove that nothing was cut off.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// line renders r as the successor of head and gives the new head. It sets Seq and Prev.
func (h Head) line(r Record) ([]byte, Head, error) {
	r.Seq, r.Prev = h.Seq+1, h.Hash
	line, err := json.Marshal(r)
	if err != nil {
		return nil, h, fmt.Errorf("internal error: cannot encode audit record %d: %w", r.Seq, err)
	}
	return append(line, '\n'), Head{Seq: r.Seq, Hash: hash(line)}, nil
}

// follow checks that line is the successor of head.
func (h Head) follow(line []byte) (Record, Head, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return r, h, fmt.Errorf("record %d is not readable: %w", h.Seq+1, err)
	}
	if r.Seq != h.Seq+1 {
		return r, h, fmt.Errorf("record %d is followed by record %d", h.Seq, r.Seq)
	}
	if r.Prev != h.Hash {
		return r, h, fmt.Errorf("record %d does not follow from record %d: one of the two was changed", r.Seq, h.Seq)
	}
	return r, Head{Seq: r.Seq, Hash: hash(line)}, nil
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
