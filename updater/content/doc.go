// Package content holds artifacts on disk by their SHA-256 and fetches missing
// ones, block by block, from whatever sources have them.
//
// The promise is that a file under its digest is whole: every block is checked
// against the signed index before it counts, from whatever source it came, and
// the whole file is hashed again before it appears under its name. A fetch
// survives kill -9, power loss, a new connection and a new depot: a journal
// beside the partial file says which blocks are durable, and only blocks
// written after its last mark are hashed again.
//
// Sources are interchangeable and untrusted: a directory (a USB stick), files
// that are already in the store, a depot over MQTT. Each is asked in turn for
// what is still missing; one that delivers three wrong blocks is dropped.
//
// Called by the updater (device side) and by the fleet tools, which build the
// index that the release document names. A Store is safe for concurrent use by
// one process; the folder is locked against a second one.
package content
