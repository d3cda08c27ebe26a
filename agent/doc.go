// Package agent is the appliance's own process: it wires the store, the trust in
// the fleet, the engines, the policy and the router together and serves two unix
// sockets, one for applications and one for operators.
//
// It holds no decisions. Where a request may run is decided in agent/policy,
// where it does run in agent/router, what is installed in updater. What lives
// here is the order in which parts start and stop, the operator's API, and the
// health findings that are read off everybody's status.
//
// Run is the only entry; cmd calls it. When a part cannot start, Run returns an
// error that names it. Once it serves, what goes wrong outside (a broker away, an
// engine that crashes, a full disk) becomes a finding and the rest goes on; a loop
// of our own that ends is a bug, and Run ends with it so that the service manager
// starts anew.
package agent
