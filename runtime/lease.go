package runtime

import (
	"net/http"
	"sync"
)

// Lease is the right to send one request to a generation. While it is held, a switch does not end that generation.
type Lease struct {
	Generation uint64
	Alias      string
	Release    string
	Engine     string
	Client     *http.Client // shared by all leases of the generation; no time limit of its own
	URL        string       // "http://engine", without a trailing slash

	once sync.Once
	done func()
}

// Done gives the lease back. The caller has read or closed the response's body. Calling it twice is nothing.
func (l *Lease) Done() { l.once.Do(l.done) }
