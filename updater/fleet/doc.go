// Package fleet is the operator's side: it keeps the folder from which a fleet
// is run. There it makes keys, takes in models and policies, signs releases
// into the catalog and assigns them to devices in the director.
//
// The folder holds everything and any number of processes may work in it:
//
//	fleet.yaml                  names and lifetimes
//	enroll.json                 the ticket that goes to each device out of band
//	keys/*.pem                  private keys, 0600, some encrypted; offline ones may be carried away
//	keys/*.pub                  their public halves
//	catalog/metadata/           signed metadata of the catalog
//	catalog/targets/            signed release documents, by digest
//	catalog/pending/            releases that are not signed yet
//	director/_root/             the director's roots
//	director/<device>/          signed metadata for one device
//	ca/                         the device authority, the depot's and the broker's certificates, crl.pem
//	devices/<device>.json       enrolled devices and their keys
//	enroll/<token>.json         enrolment tokens, 0600: they hold secrets
//	blobs/<sha256>[.index]      artifacts, packed forms of some, and block indexes
//	orders/<device>.json        signed orders to a device, with its answers
//	logs/<device>/              log lines that a device was asked for
//	inventory/                  what devices report; package inventory keeps it
//
// Commands that change something take one lock, write new files beside the old
// ones and replace timestamp.json last, so a reader sees the state before or
// after and a crash leaves nothing half signed. Every command can be repeated.
// Readers take no lock. A Fleet is safe for concurrent use.
//
// Nothing here is trusted by a device beyond the keys it uses; the depot only
// hands out what this package wrote.
package fleet
