// Package router takes a request to the place where it runs: an engine of this
// box or an upstream in the cloud.
//
// One rule holds whatever happens: the policy yields the set of places; load,
// health, cost and deadline choose only inside that set. Every decision taken
// for a request is intersected with all earlier ones, so nothing widens: not a
// reload, not a failure, not a long wait. Before every dial the policy that is
// in force then is asked again, for the cloud once more at the moment in which
// the first byte would leave, and a departure is in the audit log before that.
//
// Requests for an engine pass a bounded queue that is fair by caller. Until the
// first content byte an answer is uncommitted, and a failure may be tried at
// another place of the set, each place once, under one deadline. After it, a
// failure ends the stream, and the caller of the package says so to its client.
//
// The gateway is the only caller. Every failure is an *Error with a code, an
// HTTP status and, where waiting helps, a retry-after taken from the real queue.
// Prompt text passes through and is never logged. A Router is safe for
// concurrent use and starts no goroutines of its own.
package router
