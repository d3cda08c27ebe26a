package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// apiError is a refusal in OpenAI's shape. Type and Code are part of the API.
type apiError struct {
	Status  int    `json:"-"`
	Message string `json:"message"`
	Type    string `json:"type"`
	Param   string `json:"param,omitempty"`
	Code    string `json:"code,omitempty"`

	PromptTokens int `json:"n_prompt_tokens,omitempty"` // with context_length_exceeded
	Context      int `json:"n_ctx,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

func invalid(param, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: param, Message: fmt.Sprintf(format, args...)}
}

func unsupported(param, format string, args ...any) *apiError {
	e := invalid(param, format, args...)
	e.Code = "unsupported_parameter"
	return e
}

func unavailable(code, message string) *apiError {
	return &apiError{Status: http.StatusServiceUnavailable, Type: "unavailable_error", Code: code, Message: message}
}

// asAPIError turns any error of a handler into what the client is told.
func asAPIError(err error) *apiError {
	var api *apiError
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &tooBig):
		return &apiError{Status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Code: "request_too_large",
			Message: fmt.Sprintf("the request body is over %d bytes", tooBig.Limit)}
	case errors.Is(err, errBusy):
		return unavailable("queue_full", "all slots are taken and the queue is full: try again later")
	}
	return &apiError{Status: http.StatusInternalServerError, Type: "server_error", Message: err.Error()}
}

// badJSON says where a body is broken.
func badJSON(err error) error {
	var tooBig *http.MaxBytesError
	var kind *json.UnmarshalTypeError
	var api *apiError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &tooBig), errors.As(err, &api):
		return err
	case errors.As(err, &syntax):
		return invalid("", "the request body is not valid JSON: %v at byte %d", err, syntax.Offset)
	case errors.As(err, &kind):
		return invalid(kind.Field, "%s must be %s, not %s", kind.Field, jsonKind(kind.Type.Kind().String()), kind.Value)
	}
	return invalid("", "%s", strings.TrimPrefix(err.Error(), "json: "))
}

func jsonKind(kind string) string {
	switch kind {
	case "struct", "map":
		return "an object"
	case "slice", "array":
		return "a list"
	case "bool":
		return "true or false"
	case "string":
		return "a string"
	}
	return "a number"
}

func writeError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, e.Status, map[string]*apiError{"error": e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client has gone if this fails
}
