// Package cloud talks to one upstream beyond the box: an OpenAI-compatible API
// reached over TLS.
//
// It promises four things. The key is added here and nowhere else, and no header
// of the client leaves but those on a short list. A response never leads to
// another host: redirects are answers, proxies from the environment are ignored.
// No byte of a request is written before the caller's gate has said yes at that
// very moment. And an upstream that fails is left alone for a while by its
// breaker, then tried with a single request.
//
// Whether a request may leave at all is decided in agent/policy and enforced in
// agent/router; this package only refuses what the gate refuses. The router is
// its only caller. A failure is an *Error that says what kind it was; bodies,
// keys and prompts never appear in errors or logs.
package cloud
