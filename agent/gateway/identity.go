package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/bothy-edge/bothy/agent/caller"
	"github.com/bothy-edge/bothy/agent/policy"
)

// peer is who a connection belongs to.
type peer struct {
	identity caller.Identity
	caller   policy.Caller
	key      string // the turn in the queue
	known    bool   // the kernel named at least a uid
}

type peerKey struct{}

// nobody stands for a connection without credentials. The uid is not one that exists, in particular not root's.
var nobody = peer{caller: policy.Caller{UID: math.MaxUint32, GID: math.MaxUint32, Unattested: true}, key: "?"}

// ConnContext attaches the caller of a unix connection to the context of its
// requests. It is for http.Server.ConnContext.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	id, err := caller.Identify(unixConn)
	if err != nil {
		return ctx
	}
	return WithIdentity(ctx, id)
}

// WithIdentity attaches a caller that was established in another way.
func WithIdentity(ctx context.Context, id caller.Identity) context.Context {
	p := peer{identity: id, known: true, caller: policy.Caller{UID: id.UID, GID: id.GID, Unit: id.Unit, Exe: id.Exe,
		Container: id.Container, Unattested: !id.Trusted}}
	// A unit or container is one caller however many programs it has; without one, each program of a user is.
	p.key = fmt.Sprintf("%d %s%s", id.UID, id.Unit, id.Container)
	if id.Unit == "" && id.Container == "" {
		p.key = fmt.Sprintf("%d exe %s", id.UID, id.Exe)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(r *http.Request) peer {
	if p, ok := r.Context().Value(peerKey{}).(peer); ok {
		return p
	}
	return nobody
}

// NewServer is a server for h with the limits that keep slow or greedy clients
// harmless and with callers attached.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ConnContext:       ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
