// Package mirror fetches artifacts and metadata over HTTPS: from any web server
// that serves a folder as `bothy fleet mirror` writes it, and from other devices
// of the fleet (see package peer, which uses the same client).
//
// A mirror is a source like any other: it is not trusted. Blocks and metadata are
// verified by their consumers, so a mirror can withhold and be slow, and nothing
// else. This package sees to it that it cannot do more by being odd: every answer
// is bounded before it is read, a body that trickles or does not end is given up,
// a redirect to another host is not followed, and ranges that were not asked for
// are refused. A server that knows no ranges is used where that does not cost
// much more than what is wanted.
//
// Who may read weights from a mirror is the web server's business: it sees the
// device's certificate, if it asks for one.
//
// A Source is safe for concurrent use and keeps its connections for the next call.
package mirror
