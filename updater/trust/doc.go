// Package trust decides what a device may install. It drives the metadata of
// two repositories, the catalog and the director, from wherever a Source has
// them to a release.Want that both repositories signed for.
//
// The rules of The Update Framework are go-tuf's trustedmetadata; this package
// adds what a device needs around them: a context, a limit on every size,
// durable storage of each role as soon as it is verified, a root chain that is
// always verified again from the enrolled root, the agreement of the two
// repositories, and marks that outlive the database. A Source is never
// believed: it can only delay.
//
// What is refused is refused as a *Refusal with a code that is stored and
// reported. Anything else that goes wrong (no network, a full disk) is an
// ordinary error and worth another try. Neither changes what Current returns,
// so a device that is frozen out, or fed nonsense, goes on with what it has.
//
// Marks that never go down live in two places: the database, and a pair of
// slot files beside it that survive the loss of the database. Losing one of
// the two is harmless.
//
// A Client is safe for concurrent use; refreshes run one at a time.
package trust
