// Package powerloss shows what a program leaves on the disk when the power goes.
//
// Record runs a command under strace and writes down what it does to the files
// of one folder: writes, truncations, syncs, renames. States then plays that
// back and stops after every step; at each it makes the folders that a disk may
// hold when power is lost there. What was synced is there. Of what was not, the
// disk keeps all, nothing, or some of it in any order, and a write may be torn
// between sectors. Names (create, rename, remove) come back in the order in
// which they were made, as on a journalled filesystem, at least up to the last
// one whose folder was synced; they do not wait for the data of their files.
//
// A line that the command prints and that begins with "ack " is a promise: it
// is handed over with every state after it, and the test asks whether the state
// keeps it.
//
// Test code only. Needs strace (scripts/test-tools brings it) and one process:
// children of the command have descriptors of their own, which are not followed.
package powerloss
