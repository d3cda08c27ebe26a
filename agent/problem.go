package agent

import (
	"encoding/json"
	"errors"
	"net/http"
)

// Problem is the error body of the operator's API. It has OpenAI's outer shape,
// so one reader serves both sockets.
type Problem struct {
	Error ProblemDetail `json:"error"`
}

// ProblemDetail says what went wrong and what to type.
type ProblemDetail struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Hint    string `json:"hint,omitempty"`
}

// problem is an error with its HTTP status.
type problem struct {
	status int
	error
	hint string
}

func (p problem) Unwrap() error { return p.error }

// writeProblem answers with err: its own status where it has one, 500 otherwise.
func writeProblem(w http.ResponseWriter, err error) {
	body := ProblemDetail{Message: err.Error(), Type: "api_error"}
	status := http.StatusInternalServerError
	var p problem
	if errors.As(err, &p) {
		status, body.Hint = p.status, p.hint
	}
	var hinted interface{ Hint() string }
	if body.Hint == "" && errors.As(err, &hinted) {
		body.Hint = hinted.Hint()
	}
	if status < 500 {
		body.Type = "invalid_request_error"
	}
	writeJSON(w, status, Problem{body})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	// A client that has gone is not our failure, and the status is sent already.
	_ = enc.Encode(v)
}
