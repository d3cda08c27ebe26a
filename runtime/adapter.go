package runtime

// Adapter knows one kind of engine. It is pure: it reads nothing and starts nothing.
type Adapter interface {
	// Command is the process that serves spec on a unix socket at the given path. It refuses a spec that this kind
	// of engine cannot run, and any flag that is not on its allow-list, by name.
	Command(spec Spec, socket string) (Command, error)
}

// Command is a process to start and how to find out whether it is well.
type Command struct {
	Path string
	Args []string // without the program's name
	Env  []string // "NAME=value", added to the few variables that engines inherit
	// Tether gives the process a pipe as standard input that closes when the agent dies; otherwise it reads nothing.
	Tether bool

	Health string // path that answers 200 when the model is loaded and 503 while it loads; "": /health
	Ask    Ask    // a request that only a working model can answer
}

// Ask is the smallest real request: an engine that answers it with 200 is ready.
type Ask struct {
	Path string // "": health is all that is asked
	Body string // JSON; sent with POST
}

// askText asks a text model for one token.
var askText = Ask{Path: "/v1/completions", Body: `{"model":"probe","prompt":"Hello","max_tokens":1,"temperature":0}`}

// askEmbedding asks an embedding model for one vector.
var askEmbedding = Ask{Path: "/v1/embeddings", Body: `{"model":"probe","input":"Hello"}`}

// askRerank asks a re-ranking model for one score.
var askRerank = Ask{Path: "/v1/rerank", Body: `{"model":"probe","query":"Hello","documents":["Hello"]}`}
