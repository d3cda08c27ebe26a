// Package provenance verifies who signed the files of a model: detached
// signatures after the OpenSSF Model Signing specification, version 1.0, as
// they are published beside a model ("model.sig"). Such a signature is a
// Sigstore bundle with one DSSE envelope over an in-toto statement that lists
// every file of the model with its SHA-256.
//
// Two of the methods of the specification are known: "key" (an ECDSA public key
// that the verifier has) and "certificate" (a chain to roots that the verifier
// has). The keyless method is refused: it needs a transparency log, which a box
// without a network cannot ask. So are predicates, hashes and serialisations
// other than one SHA-256 for each whole file.
//
// Verify says who signed which files; Manifest.Match says whether a set of files
// is exactly that. Nothing is ever half right: a file too many, a file too few,
// a name that could mean another place, or a second signature refuses the whole.
//
// The package is pure: no I/O, no clock; the bytes are untrusted and bounded. It
// stands on the ground floor, so that policies, the fleet and the agent may all
// use it. Everything in it is safe for concurrent use.
package provenance
