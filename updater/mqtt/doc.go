// Package mqtt is the connection to the broker: sessions that stay up, the
// outbox, the topics and the binary frames that blocks travel in.
//
// A Session promises that it comes back by itself after any failure of the
// broker or the network, with full jitter; that every subscription is made anew
// on each connection; that retained messages of this side are there again after
// a broker has lost its memory; that no packet over the limit is read into
// memory; and that a message handler never blocks the client. It does not
// promise delivery: MQTT cannot (a QoS 1 acknowledgement is the broker's, not
// the receiver's, and brokers drop for slow consumers). What must arrive goes
// through the Outbox (events) or is asked for again (frames).
//
// Bulk is the second connection of a device, open only while something is
// fetched, so that blocks never queue ahead of keep-alive or the last will.
//
// No authority comes from a topic or from the broker: whoever receives a
// message here must verify what it carries. Only this package may import paho;
// it is used by updater/content, updater/fleet and the agent's wiring. All
// exported types are safe for concurrent use unless they say otherwise.
package mqtt
