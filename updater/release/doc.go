// Package release defines what the fleet signs: the release document, the set
// of releases that a device is told to run, and the envelopes in which a
// device signs what it reports.
//
// A release is a small JSON document that names files by digest. It is the
// only kind of target in the catalog and in the director; weights, policies
// and engine binaries are reached from it. The document has exactly one
// encoding: Parse refuses bytes that Encode would not have written, so two
// readers cannot understand one signed document differently (duplicate keys,
// other letter cases, unknown fields, trailing data).
//
// The package is pure: no clock, no files, no network. Parse may be called
// with hostile bytes; it answers with an error and never panics. A Document
// that Parse returned has passed Validate. Everything here is safe for
// concurrent use because nothing here has state.
package release
