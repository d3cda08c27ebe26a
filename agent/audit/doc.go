// Package audit keeps the record of who asked what to run where: one JSON line a
// record in append-only files, each line carrying the hash of the one before.
//
// It promises that Depart returns nil only when its record is on the disk, so a
// request may leave the box only after that; many departures share one fsync.
// Record is for everything that stays here: it never blocks and never fails, and
// what a full disk made it drop is counted in the next record that is written.
// No field can hold prompt or answer text.
//
// The chain makes a changed, missing or reordered line visible to Verify; that
// lines are missing at the end is provable only against a Head that was kept
// elsewhere. Open cuts off a line that a crash left half written and sets a file
// that does not verify aside, never deletes it. One process may have a log open.
package audit
