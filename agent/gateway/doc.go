// Package gateway serves the OpenAI API to the programs on this box.
//
// It reads requests (bounded, against a deadline), finds in them the few fields
// that are acted on, has the detectors scan every string, and hands them to the
// router; answers are passed on chunk by chunk. It promises that a body goes to an
// engine as it came, and to the cloud only encoded anew from what was scanned; that
// whatever it refuses it refuses with an OpenAI error object; that a client which
// hangs up has its work cancelled at once, queued or running; and that a stream
// which breaks ends between two events, with a typed error event.
//
// The agent serves it on a unix socket through NewServer, which attaches the
// kernel's word on who connected. A connection without that word is treated as
// nobody's and may only use this box. Prompt and answer text is never logged,
// recorded or measured. Everything here is safe for concurrent use.
package gateway
