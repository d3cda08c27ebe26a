package router

import (
	"net/http"
	"time"
)

// Code names a failure towards the client. The strings are part of the API.
type Code string

// The codes of an *Error.
const (
	CodeDenied       Code = "policy_denied"           // no place is allowed
	CodeNoModel      Code = "model_not_found"         // nobody serves the alias
	CodeQueueFull    Code = "queue_full"              // too many requests wait already
	CodeWaitTooLong  Code = "wait_too_long"           // waited for an engine as long as anybody may
	CodeEngine       Code = "engine_unavailable"      // the engine does not answer or failed
	CodeUpstream     Code = "upstream_unavailable"    // no upstream of the set answers
	CodeAudit        Code = "audit_unavailable"       // only the cloud is allowed, and its record cannot be written
	CodeTooLarge     Code = "context_length_exceeded" // the prompt does not fit the model's context anywhere it may run
	CodeDeadline     Code = "deadline_exceeded"       // no content within the router's deadline
	CodeHangUp       Code = "client_closed"           // the client left; nobody reads this
	CodeUnprocessed  Code = "cannot_leave"            // only the cloud is allowed, and the body cannot be sent there
	CodeStreamBroken Code = "stream_interrupted"      // the answer broke after it had begun
)

// statusHangUp is what nginx made customary for a client that left.
const statusHangUp = 499

// Error is a request that was not served.
type Error struct {
	Code       Code
	Message    string        // for the client; no prompt text of others, no secrets
	RetryAfter time.Duration // from the real queue; 0 when waiting does not help
	Place      string        // where it failed last, or ""
	Reason     Reason
	Rule       string // of the policy
	Err        error  // cause, for the log
}

func (e *Error) Error() string {
	if e.Err != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.Err.Error()
	}
	return string(e.Code) + ": " + e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Status is the HTTP status of the failure.
func (e *Error) Status() int {
	switch e.Code {
	case CodeDenied:
		return http.StatusForbidden
	case CodeNoModel:
		return http.StatusNotFound
	case CodeDeadline:
		return http.StatusGatewayTimeout
	case CodeHangUp:
		return statusHangUp
	case CodeTooLarge:
		return http.StatusBadRequest
	case CodeUnprocessed:
		return http.StatusUnprocessableEntity
	case CodeStreamBroken:
		return http.StatusBadGateway
	}
	return http.StatusServiceUnavailable
}
