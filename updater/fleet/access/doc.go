// Package access writes what a broker must know of a fleet: who may use which
// topic, the logins of enrolment tokens, and how to listen.
//
// The rules are those of the embedded broker: a device writes its own state,
// events, presence, requests and certificate requests, and reads its own topics,
// the catalog, depots' announcements and the streams of files that its set
// names; a token reaches its own two topics; the depot reaches everything of its
// tenant. They are a fence, not the foundation: devices believe signatures, not topics.
//
// Pure functions of a Site. Used by `bothy fleet acl`.
package access
