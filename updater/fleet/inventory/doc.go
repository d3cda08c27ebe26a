// Package inventory is what a fleet knows of its devices from their own words:
// what each reports, what it shall run, and what is wrong with it.
//
// A Keeper takes reports, checks their signatures against the device records of
// the fleet, and keeps the newest state of each device and the newest events in
// the folder inventory/ of the fleet:
//
//	devices.jsonl         one line a device and change; the last one counts
//	events.jsonl[.1]      events in the order in which they came, bounded
//	acknowledged/<device> until when a person has seen its alarms
//
// A report that no registered key signed is kept for people to look at and
// marked as unverified. What must never go back (an audit log, a counter) is an
// alarm until a person acknowledges it. A device that the fleet does not know
// takes bounded room.
//
// One process may keep the inventory, the one that serves the fleet; another
// gets ErrBusy. Boards, Events and Acknowledge read the files beside it, from
// any process. A crash loses at most a second of reports, which devices give
// again; a full disk makes them wait in memory, and nothing here stops the depot.
package inventory
