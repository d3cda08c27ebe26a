// Package enrolment holds what passes between a box and a fleet until the box
// is a device: the token, the request with the box's public key, the answer
// with its certificate.
//
// A token is a secret that both sides know and nobody between them. From it
// three keys are derived: the password for the broker, the key that proves a
// request and the key that proves an answer. So a broker, which sees the
// password, can neither put another key into a request nor give the box a
// certificate, an authority or roots of another fleet; it can only delay. The
// device name is the fleet's to give: a request cannot ask for one.
//
// Everything here is a pure function of bytes, but for Exchange, which talks to
// the broker, and it may be repeated: the same key and token make the same
// request, and the fleet gives the same answer to it.
//
// Used by the fleet's side (updater/fleet, its depot) and by `bothy enroll`.
package enrolment
