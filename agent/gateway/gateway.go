package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
	"github.com/bothy-edge/bothy/agent/router"
)

// The limits that a zero Config gets.
const (
	DefaultMaxBody     = 32 << 20
	DefaultBodyTimeout = 30 * time.Second
	// buffered is how many largest bodies may be in memory at once.
	buffered = 8
)

// Config is what a Gateway works with. Router and Models are required.
type Config struct {
	Router *router.Router
	// Models lists the aliases for /v1/models.
	Models func() []ModelInfo
	// Audit takes the record of every finished request. Nil: none are kept.
	Audit interface{ Record(audit.Record) }
	// MaxBody bounds a body, in bytes; 0: DefaultMaxBody.
	MaxBody int64
	// BodyTimeout is how long a client may take to send a body; 0: DefaultBodyTimeout.
	BodyTimeout time.Duration
	Log         *slog.Logger
	Now         func() time.Time
}

// ModelInfo is one alias in the list of models.
type ModelInfo struct {
	ID      string
	Created time.Time
	Release string // for example "mote@2"
	State   string // for example "ready"
}

// Gateway is the handler of the API socket.
type Gateway struct {
	config       Config
	stats        *stats
	writeTimeout time.Duration // of one chunk; a client that reads slower is gone
	inMemory     memory
}

// New makes a gateway.
func New(c Config) *Gateway {
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.BodyTimeout <= 0 {
		c.BodyTimeout = DefaultBodyTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Gateway{config: c, stats: newStats(c.Now), writeTimeout: time.Minute,
		inMemory: memory{most: buffered * c.MaxBody, by: map[string]int64{}}}
}

// route is one path of the API.
type route struct {
	method    string
	api       string // as policies name it
	generates bool
}

// routes is the whole API, apart from /v1/models/{id}.
var routes = map[string]route{
	"/v1/chat/completions": {http.MethodPost, "chat", true},
	"/v1/completions":      {http.MethodPost, "completions", true},
	"/v1/embeddings":       {http.MethodPost, "embeddings", false},
	"/v1/models":           {http.MethodGet, "", false},
}

const modelPrefix = "/v1/models/"

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newID()
	w.Header()["X-Request-Id"] = []string{id}
	to, known := routes[r.URL.Path]
	if strings.HasPrefix(r.URL.Path, modelPrefix) {
		to, known = routes["/v1/models"], true
	}
	switch {
	case !known:
		g.refuse(w, &problem{status: http.StatusNotFound, code: "unknown_url", message: "there is no " + short(r.URL.Path) + " here; the API begins at /v1/chat/completions"})
	case r.Method != to.method:
		w.Header().Set("Allow", to.method)
		g.refuse(w, &problem{status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: short(r.URL.Path) + " takes " + to.method + " only"})
	case to.api == "":
		g.models(w, strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v1/models"), "/"))
	default:
		g.complete(w, r, to, id)
	}
}

// refuse answers a request that never reached the router.
func (g *Gateway) refuse(w http.ResponseWriter, p *problem) {
	g.stats.refused(p.code)
	p.write(w)
}

// short keeps a client's own path from filling an error message.
func short(path string) string {
	return path[:min(len(path), 100)]
}

// newID names a request. A client's own id is not taken over: ids in the record are unique.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// models answers with one model, or with all when alias is "".
func (g *Gateway) models(w http.ResponseWriter, alias string) {
	type bothy struct {
		State   string `json:"state,omitempty"`
		Release string `json:"release,omitempty"`
	}
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
		Bothy   bothy  `json:"bothy"`
	}
	list := []model{}
	for _, m := range g.config.Models() {
		list = append(list, model{m.ID, "model", max(0, m.Created.Unix()), "bothy", bothy{m.State, m.Release}})
	}
	slices.SortFunc(list, func(a, b model) int { return strings.Compare(a.ID, b.ID) })
	var out any = map[string]any{"object": "list", "data": list}
	if alias != "" {
		i := slices.IndexFunc(list, func(m model) bool { return m.ID == alias })
		if i < 0 {
			g.refuse(w, &problem{status: http.StatusNotFound, code: string(router.CodeNoModel), message: "the model \"" + short(alias) + "\" does not exist on this box", param: "model"})
			return
		}
		out = list[i]
	}
	body, err := json.Marshal(out)
	if err != nil {
		g.refuse(w, &problem{status: http.StatusInternalServerError, code: "internal_error", message: "internal error: cannot encode the models"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}
