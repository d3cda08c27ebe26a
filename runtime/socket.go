package runtime

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"
)

// maxSocketPath is what fits into sockaddr_un.sun_path beside its terminating zero (unix(7)).
const maxSocketPath = 107

// engineURL is what a Lease's requests are addressed to; the client dials the socket whatever the host says.
const engineURL = "http://engine"

func socketPath(base string, gen uint64) (dir, socket string) {
	// The number alone: an alias may be long, and llama-server takes a host for a socket only when it ends in .sock.
	dir = filepath.Join(base, "g"+strconv.FormatUint(gen, 10))
	return dir, filepath.Join(dir, "e.sock")
}

func checkSocketPath(socket string) error {
	if len(socket) > maxSocketPath {
		return fmt.Errorf("the engine's socket path %s has %d bytes, the system allows %d: choose a shorter runtime directory",
			socket, len(socket), maxSocketPath)
	}
	return nil
}

// socketClient speaks HTTP over a unix socket. It has no time limit of its own: a stream may last as long as its request.
func socketClient(socket string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
			},
			// llama-server closes kept connections when it likes, and a POST that meets the closing is not repeated by
			// net/http: seen as an EOF in one of some dozens of requests.
			DisableKeepAlives:  true,
			DisableCompression: true, // a stream must not be buffered, and the socket is local
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
