// Package house holds the rules that keep this tree easy to see, as tests.
//
// Imports go down floors only, some third-party packages have one owner, every
// package says what it is, tests do not sleep, and the list of modules linked
// into the binary changes only on purpose. There is nothing here to call.
package house
