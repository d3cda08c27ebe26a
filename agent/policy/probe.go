package policy

// probeAsk is the request of a probe. Its text is what the detectors look at.
type probeAsk struct {
	Model      string      `json:"model"`
	API        string      `json:"api,omitempty"`
	Text       string      `json:"text,omitempty"`
	Caller     probeCaller `json:"caller,omitzero"`
	Labels     []string    `json:"labels,omitempty"`
	OnlyLocal  bool        `json:"only_local,omitempty"`
	Opaque     bool        `json:"opaque,omitempty"`
	Incomplete bool        `json:"incomplete,omitempty"`
	Bytes      int         `json:"bytes,omitempty"`
	Time       string      `json:"time,omitempty"`
}

// probeCaller is one caller, not a pattern.
type probeCaller struct {
	UID        uint32 `json:"uid,omitempty"`
	GID        uint32 `json:"gid,omitempty"`
	Unit       string `json:"unit,omitempty"`
	Exe        string `json:"exe,omitempty"`
	Container  string `json:"container,omitempty"`
	Unattested bool   `json:"unattested,omitempty"`
}

// probeWant is the verdict expected; fields that are not given are not compared.
type probeWant struct {
	Places    []Place  `json:"places,omitempty"`
	Deny      *bool    `json:"deny,omitempty"`
	Rule      string   `json:"rule,omitempty"`
	Priority  string   `json:"priority,omitempty"`
	MaxTokens *int     `json:"max_tokens,omitempty"`
	Classes   []string `json:"classes,omitempty"`
}
