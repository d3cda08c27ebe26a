package gateway

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/bothy-edge/bothy/agent/router"
)

// problem is a refusal on its way to the client.
type problem struct {
	status     int
	code       string
	message    string
	param      string
	retryAfter time.Duration
}

// The types of OpenAI's error object.
const (
	invalidRequest = "invalid_request_error"
	permission     = "permission_error"
	serverError    = "server_error"
)

func (p *problem) kind() string {
	switch {
	case p.status == http.StatusForbidden:
		return permission
	case p.status < 500:
		return invalidRequest
	}
	return serverError
}

// object is the error in OpenAI's format, as JSON.
func (p *problem) object() []byte {
	type fields struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	f := fields{Message: p.message, Type: p.kind(), Code: p.code}
	if p.param != "" {
		f.Param = &p.param
	}
	b, err := json.Marshal(map[string]fields{"error": f})
	if err != nil {
		return []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}`)
	}
	return b
}

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	body := p.object()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.status)
	w.Write(body)
}

// event is the error as the last event of a stream.
func (p *problem) event() []byte {
	out := append([]byte("event: error\ndata: "), p.object()...)
	return append(out, "\n\n"...)
}

func problemOf(e *router.Error) *problem {
	p := &problem{status: e.Status(), code: string(e.Code), message: e.Message, retryAfter: e.RetryAfter}
	if e.Code == router.CodeNoModel {
		p.param = "model"
	}
	return p
}
