package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// maxModel bounds the name of a model, in bytes: it goes into records and messages.
const maxModel = 256

// body is a request's body and what was found in it. It satisfies router.Body.
type body struct {
	raw       []byte
	model     string
	stream    bool
	output    int  // most tokens that the request asks for; 0: it does not say
	unbounded bool // some bound is none, or one that not every place knows
	opaque    bool // holds content that no detector can read
	ambiguous bool // some object has a key twice, so two readers may see two requests
	kinds     []detect.Kind
}

// badRequest is a body that cannot be served; param names the field, "" for the whole.
type badRequest struct{ message, param string }

func (e *badRequest) Error() string { return e.message }

// parse scans the body and reads the fields that are acted on. The error is a *badRequest.
func parse(raw []byte) (*body, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, &badRequest{"the request has no body; send a JSON object", ""}
	}
	found, dup, err := detect.JSON(raw)
	if errors.Is(err, detect.ErrTooDeep) {
		return nil, &badRequest{fmt.Sprintf("the body nests deeper than %d levels", detect.MaxDepth), ""}
	}
	if err != nil {
		return nil, &badRequest{"the body is not valid JSON: " + err.Error(), ""}
	}
	b := &body{raw: raw, ambiguous: dup, kinds: detect.Kinds(found)}
	c := cursor{b: raw}
	if c.space(); c.b[c.i] != '{' {
		return nil, &badRequest{"the body must be a JSON object", ""}
	}
	if err := b.fields(&c); err != nil {
		return nil, err
	}
	if b.model == "" {
		return nil, &badRequest{"the request names no model", "model"}
	}
	if len(b.model) > maxModel {
		return nil, &badRequest{fmt.Sprintf("the model's name is longer than %d bytes", maxModel), "model"}
	}
	return b, nil
}

// fields walks the members of the body's object.
func (b *body) fields(c *cursor) error {
	var failed error
	c.members(func(key string, value []byte) {
		switch key {
		case "model":
			failed = errors.Join(failed, into(value, &b.model, key, "a string"))
		case "stream":
			failed = errors.Join(failed, into(value, &b.stream, key, "true or false"))
		case "max_tokens", "max_completion_tokens", "n_predict":
			var n int
			failed = errors.Join(failed, into(value, &n, key, "a whole number"))
			b.output = max(b.output, n)
			b.unbounded = b.unbounded || n <= 0 || key == "n_predict"
		default:
			b.opaque = b.opaque || opaqueField(key, value)
		}
	})
	var bad *badRequest
	if errors.As(failed, &bad) {
		return bad
	}
	return nil
}

func into(value []byte, to any, key, want string) error {
	if string(value) == "null" {
		return nil
	}
	if json.Unmarshal(value, to) != nil {
		return &badRequest{fmt.Sprintf("the field %q must be %s", key, want), key}
	}
	return nil
}

// Local gives the body as it came, or with a lower bound on the answer.
func (b *body) Local(maxTokens int) ([]byte, error) {
	if maxTokens <= 0 || b.output > 0 && b.output <= maxTokens && !b.unbounded {
		return b.raw, nil
	}
	return b.encode(b.model, maxTokens), nil
}

// errAmbiguous keeps a body here that two readers may understand differently.
var errAmbiguous = errors.New("an object in it has the same key twice")

// Cloud encodes the body anew and scans the result.
func (b *body) Cloud(model string, maxTokens int) ([]byte, []detect.Kind, error) {
	if b.ambiguous {
		return nil, nil, errAmbiguous
	}
	out := b.encode(model, maxTokens)
	found, dup, err := detect.JSON(out)
	if err != nil {
		return nil, nil, fmt.Errorf("internal error: it does not survive encoding: %w", err)
	}
	if dup {
		return nil, nil, errAmbiguous
	}
	return out, detect.Kinds(found), nil
}

// encode writes the body again: every string from its decoded form, numbers as they
// are, no spaces, in the same order. model and the token bound are replaced.
func (b *body) encode(model string, maxTokens int) []byte {
	out := make([]byte, 0, len(b.raw)+64)
	out = append(out, '{')
	bounded := false
	(&cursor{b: b.raw}).members(func(key string, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(appendString(out, key), ':')
		switch {
		case key == "model":
			out = appendString(out, model)
		case maxTokens > 0 && (key == "max_tokens" || key == "max_completion_tokens" || key == "n_predict"):
			// llama-server prefers its own n_predict; other places do not know it.
			bounded = bounded || key != "n_predict"
			out = strconv.AppendInt(out, int64(bound(value, maxTokens)), 10)
		default:
			out = (&cursor{b: value}).encode(out)
		}
	})
	if maxTokens > 0 && !bounded {
		out = append(out, `,"max_tokens":`...)
		out = strconv.AppendInt(out, int64(maxTokens), 10)
	}
	return append(out, '}')
}

func bound(value []byte, limit int) int {
	var n int
	if json.Unmarshal(value, &n) != nil || n <= 0 {
		return limit
	}
	return min(n, limit)
}
