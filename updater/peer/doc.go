// Package peer lets devices of one fleet take artifacts from each other on a
// local network: a server, and the way a mirror.Source reaches it.
//
// Both ends show the certificates that the fleet's device authority issued; the
// common name is the device. What a device receives it checks block by block, so
// a peer need not be trusted. Whom a peer may hand files to is the harder half: it
// knows its own set, not those of others. The rule:
//
//  1. The asker presents a proof: the director's timestamp, snapshot and targets
//     for the device that its certificate names. The peer verifies them from the
//     director's root that it follows itself (trust.CheckProof).
//  2. The timestamp must not have expired, and a device that has once shown a newer
//     one cannot go back to an older. So what was taken out of a device's set, or
//     a device that was retired, is closed at the latest when the last timestamp
//     signed before expires: within seven days, unless the fleet says otherwise.
//     That is as long as any freeze of this system goes unnoticed, and no longer.
//  3. Only files of releases that both repositories gave to the peer itself are
//     handed out. A stolen director key can therefore point at what the offline keys
//     signed, as it can everywhere, and at nothing that it makes up.
//
// Only whole, checked files and their indexes are served, by digest and nothing
// else; there is no listing, and who may not have a file does not learn whether it
// is here. Connections, transfers, the rate, sizes and times are bounded, and
// nothing is served while the box is busy with requests of its own: a transfer
// under way is cut then, and the asker goes on elsewhere.
//
// Whoever is on the network without a certificate gets no further than the
// handshake. A Server is safe for concurrent use.
package peer
