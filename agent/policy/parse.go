package policy

import (
	"math"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// Parse reads a policy document, YAML or its canonical JSON, and validates it: the
// fields, every name that is referred to, and that every rule can fire. The error
// is an *Error with every problem's line and column. Probes are run by Probe.
func Parse(src []byte) (*Policy, error) {
	r := &reader{}
	root := r.root(src)
	if root == nil {
		return nil, r.err()
	}
	doc := r.document(root)
	if err := r.err(); err != nil {
		return nil, err
	}
	r.check(&doc)
	if err := r.err(); err != nil {
		return nil, err
	}
	return compile(doc), nil
}

func (r *reader) document(n ast.Node) document {
	var doc document
	r.mapping(n, "a policy", []field{
		{"schema", true, func(v ast.Node) { doc.Schema = r.integer(v, "schema", 1, 1) }},
		{"name", true, func(v ast.Node) { doc.Name = r.name(v, "name") }},
		{"kill_switch", false, func(v ast.Node) { doc.KillSwitch = r.boolean(v, "kill_switch") }},
		{"upstreams", false, func(v ast.Node) { doc.Upstreams = each(r, v, "upstreams", r.upstream) }},
		{"classes", false, func(v ast.Node) { doc.Classes = each(r, v, "classes", r.class) }},
		{"rules", false, func(v ast.Node) { doc.Rules = each(r, v, "rules", r.rule) }},
		{"spill", false, func(v ast.Node) { doc.Spill = r.spill(v) }},
		{"updates", false, func(v ast.Node) { doc.Updates = r.updates(v) }},
		{"probes", false, func(v ast.Node) { doc.Probes = each(r, v, "probes", r.probe) }},
	}, nil)
	return doc
}

// each reads a list of sections.
func each[T any](r *reader, n ast.Node, what string, read func(ast.Node) T) []T {
	var out []T
	r.list(n, what, false, func(i ast.Node) { out = append(out, read(i)) })
	return out
}

// values reads a list of values, or one value in place of the list.
func values[T any](r *reader, n ast.Node, what string, read func(n ast.Node, what string) T) []T {
	var out []T
	r.list(n, what, true, func(i ast.Node) { out = append(out, read(i, what)) })
	return out
}

func (r *reader) upstream(n ast.Node) Upstream {
	u := Upstream{Timeout: DefaultTimeout}
	r.upstreams = append(r.upstreams, at(n))
	r.mapping(n, "an upstream", []field{
		{"name", true, func(v ast.Node) {
			if u.Name = r.name(v, "name"); u.Name == string(Local) {
				r.add(at(v), "an upstream cannot be named %q: that is this box", Local)
			}
		}},
		{"api", true, func(v ast.Node) { u.API = r.choice(v, "api", []string{"openai"}) }},
		{"base_url", true, func(v ast.Node) { u.BaseURL = r.baseURL(v) }},
		{"credential", false, func(v ast.Node) { u.Credential = r.name(v, "credential") }},
		{"models", false, func(v ast.Node) { u.Models = r.models(v) }},
		{"timeout", false, func(v ast.Node) { u.Timeout = r.duration(v, "timeout") }},
	}, map[string]string{
		"region": "no rule can refer to it",
		"price":  "costs are not counted",
		"budget": "nothing would stop at it; use max_tokens on the rules, or deny",
		"key":    "a key never belongs in a policy; name a credential",
	})
	return u
}

// baseURL reads https, or http where the bytes do not leave the machine.
func (r *reader) baseURL(n ast.Node) string {
	s := r.text(n, "base_url", 512)
	u, err := url.Parse(s)
	switch {
	case s == "":
	case err != nil || u.Host == "" || u.Hostname() == "":
		r.add(at(n), "base_url %q is not a URL such as \"https://api.example.com/v1\"", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		r.add(at(n), "base_url has a user, query or fragment; it is scheme, host and path only")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		r.add(at(n), "base_url %q is not encrypted; http is for loopback addresses only", s)
	case u.Scheme != "http" && u.Scheme != "https":
		r.add(at(n), "base_url %q does not begin with https://", s)
	}
	return strings.TrimRight(s, "/")
}

// loopback takes addresses only: what the name localhost leads to is the resolver's to say.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// models reads alias: upstream's name.
func (r *reader) models(n ast.Node) map[string]string {
	m, ok := n.(*ast.MappingNode)
	if !ok || len(m.Values) == 0 {
		r.add(at(n), "models maps aliases of this box to the upstream's names, for example \"models: {mote: gpt-4o-mini}\"")
		return nil
	}
	out := map[string]string{}
	for _, v := range m.Values {
		out[keyText(v.Key)] = r.text(v.Value, "a model's name", 256)
	}
	return out
}

func (r *reader) class(n ast.Node) class {
	c := class{pos: at(n)}
	r.mapping(n, "a class", []field{
		{"name", true, func(v ast.Node) {
			if c.Name = r.name(v, "name"); c.Name == Opaque {
				r.add(at(v), "the class %q is built in and cannot be defined", Opaque)
			}
		}},
		{"detectors", false, func(v ast.Node) { c.Detectors = values(r, v, "detector", r.detector) }},
		{"callers", false, func(v ast.Node) { c.Callers = each(r, v, "callers", r.caller) }},
		{"labels", false, func(v ast.Node) { c.Labels = values(r, v, "label", r.name) }},
	}, map[string]string{
		"patterns": "only the built-in detectors look at the text",
		"words":    "only the built-in detectors look at the text",
	})
	return c
}

func (r *reader) detector(n ast.Node, what string) string {
	var known []string
	for _, k := range detect.All() {
		known = append(known, string(k))
	}
	return r.choice(n, what, known)
}

func (r *reader) callerFields(c *caller) []field {
	return []field{
		{"unit", false, func(v ast.Node) { c.Unit = values(r, v, "unit", r.glob) }},
		{"exe", false, func(v ast.Node) { c.Exe = values(r, v, "exe", r.glob) }},
		{"container", false, func(v ast.Node) { c.Container = values(r, v, "container", r.glob) }},
		{"uid", false, func(v ast.Node) { c.UID = values(r, v, "uid", r.id) }},
		{"gid", false, func(v ast.Node) { c.GID = values(r, v, "gid", r.id) }},
	}
}

func (r *reader) caller(n ast.Node) caller {
	var c caller
	r.mapping(n, "a caller", r.callerFields(&c), nil)
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) == 0 {
		r.add(at(n), "a caller without fields would be every caller")
	}
	return c
}

func (r *reader) id(n ast.Node, what string) uint32 {
	return uint32(r.integer(n, what, 0, math.MaxUint32-1))
}

// glob reads a literal or a text with one "*".
func (r *reader) glob(n ast.Node, what string) glob {
	s := r.text(n, what, 256)
	prefix, suffix, star := strings.Cut(s, "*")
	if strings.Contains(suffix, "*") {
		r.add(at(n), "%s %q has more than one \"*\"", what, s)
	}
	return glob{prefix: prefix, suffix: suffix, star: star}
}

func (r *reader) rule(n ast.Node) rule {
	out := rule{pos: at(n)}
	r.mapping(n, "a rule", []field{
		{"name", true, func(v ast.Node) {
			if out.Name = r.ruleName(v); out.Name == DefaultRule {
				r.add(at(v), "a rule cannot be named %q: that is the answer when no rule matches", DefaultRule)
			}
		}},
		{"when", false, func(v ast.Node) { out.When = r.when(v, &out) }},
		{"places", false, func(v ast.Node) { out.Places = values(r, v, "place", r.place(&out)) }},
		{"priority", false, func(v ast.Node) { out.Priority = r.choice(v, "priority", []string{Interactive, Batch}) }},
		{"max_tokens", false, func(v ast.Node) { out.MaxTokens = r.integer(v, "max_tokens", 1, 1<<30) }},
		{"deny", false, func(v ast.Node) { out.Deny = r.text(v, "deny", 512) }},
	}, map[string]string{
		"mask": "nothing would be masked; keep the class on this box with \"places: local\"",
		"rate": "nothing would be limited; use \"priority: batch\" or max_tokens",
	})
	return out
}

// ruleName reads a name that goes into the header x-bothy-rule: printable ASCII,
// without the "+" that joins the names of rules.
func (r *reader) ruleName(n ast.Node) string {
	s := r.text(n, "name", 64)
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '+' || c == '"' {
			r.add(at(n), "name %q may have only printable ASCII without '+' and '\"'", s)
			return s
		}
	}
	if strings.TrimSpace(s) != s {
		r.add(at(n), "name %q begins or ends with a space", s)
	}
	return s
}

// place reads one place of the rule; its upstream may be defined further down.
func (r *reader) place(by *rule) func(ast.Node, string) Place {
	return func(n ast.Node, what string) Place {
		p := Place(r.name(n, what))
		if p != Local && p != "" {
			r.refs = append(r.refs, reference{kind: "upstream", name: string(p), by: by, pos: at(n)})
		}
		return p
	}
}

func (r *reader) when(n ast.Node, by *rule) *when {
	var w when
	r.mapping(n, "when", append(r.callerFields(&w.caller), []field{
		{"model", false, func(v ast.Node) { w.Model = values(r, v, "model", r.glob) }},
		{"api", false, func(v ast.Node) { w.API = values(r, v, "api", r.api) }},
		{"class", false, func(v ast.Node) {
			w.Class = values(r, v, "class", func(n ast.Node, what string) string {
				s := r.name(n, what)
				r.refs = append(r.refs, reference{kind: "class", name: s, by: by, pos: at(n)})
				return s
			})
		}},
		{"min_bytes", false, func(v ast.Node) { w.MinBytes = r.integer(v, "min_bytes", 1, math.MaxInt32) }},
		{"max_bytes", false, func(v ast.Node) { w.MaxBytes = r.integer(v, "max_bytes", 1, math.MaxInt32) }},
		{"hours", false, func(v ast.Node) { w.Hours = values(r, v, "hours", r.hours) }},
		{"days", false, func(v ast.Node) {
			w.Days = values(r, v, "day", func(n ast.Node, what string) string { return r.choice(n, what, dayNames()) })
		}},
	}...), map[string]string{
		"label": "define a class with \"labels\" and name the class here",
	})
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) == 0 {
		r.add(at(n), "when has no condition; leave it out for a rule that takes everything")
	}
	return &w
}

func (r *reader) api(n ast.Node, what string) string {
	return r.choice(n, what, APIs())
}

// APIs are the kinds of request that a policy tells apart.
func APIs() []string { return []string{"chat", "completions", "embeddings"} }

// hours reads "08:00-18:00".
func (r *reader) hours(n ast.Node, what string) hours {
	s := r.text(n, what, 64)
	from, to, _ := strings.Cut(s, "-")
	h := hours{From: minutes(from), To: minutes(to)}
	if s != "" && (h.From < 0 || h.To < 0 || h.From >= dayMinutes || h.From == h.To) {
		r.add(at(n), "hours %q is not a window such as \"08:00-18:00\" or \"22:00-06:00\"", s)
		return hours{To: dayMinutes}
	}
	return h
}

// minutes since midnight of "08:30"; -1 when it is no time of day. "24:00" ends a day.
func minutes(s string) int {
	if len(s) != 5 || s[2] != ':' {
		return -1
	}
	h, err := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:], 10, 8)
	if err != nil || err2 != nil || m > 59 || h*60+m > dayMinutes {
		return -1
	}
	return int(h*60 + m)
}

func (r *reader) spill(n ast.Node) *spill {
	var s spill
	r.mapping(n, "spill", []field{
		{"max_wait", false, func(v ast.Node) { d := duration(r.duration(v, "max_wait")); s.MaxWait = &d }},
		{"max_queue", false, func(v ast.Node) { s.MaxQueue = r.integer(v, "max_queue", 1, 1_000_000) }},
	}, map[string]string{
		"hysteresis":      "the thresholds apply to each request as they are",
		"gpu_temperature": "only the predicted wait and the queue are looked at",
		"gpu_memory":      "only the predicted wait and the queue are looked at",
	})
	return &s
}

func (r *reader) probe(n ast.Node) probe {
	out := probe{pos: at(n)}
	r.mapping(n, "a probe", []field{
		{"name", true, func(v ast.Node) { out.Name = r.text(v, "name", 128) }},
		{"ask", true, func(v ast.Node) { out.Ask = r.probeAsk(v) }},
		{"want", true, func(v ast.Node) { out.Want = r.probeWant(v) }},
	}, nil)
	return out
}

func (r *reader) probeAsk(n ast.Node) probeAsk {
	var a probeAsk
	r.mapping(n, "ask", []field{
		{"model", true, func(v ast.Node) { a.Model = r.text(v, "model", 256) }},
		{"api", false, func(v ast.Node) { a.API = r.api(v, "api") }},
		{"text", false, func(v ast.Node) { a.Text = r.text(v, "text", maxSource) }},
		{"caller", false, func(v ast.Node) { a.Caller = r.probeCaller(v) }},
		{"labels", false, func(v ast.Node) { a.Labels = values(r, v, "label", r.name) }},
		{"only_local", false, func(v ast.Node) { a.OnlyLocal = r.boolean(v, "only_local") }},
		{"opaque", false, func(v ast.Node) { a.Opaque = r.boolean(v, "opaque") }},
		{"incomplete", false, func(v ast.Node) { a.Incomplete = r.boolean(v, "incomplete") }},
		{"bytes", false, func(v ast.Node) { a.Bytes = r.integer(v, "bytes", 1, math.MaxInt32) }},
		{"time", false, func(v ast.Node) {
			a.Time = r.text(v, "time", 64)
			if _, err := time.Parse(probeTime, a.Time); a.Time != "" && err != nil {
				r.add(at(v), "time %q is not a local time such as \"2026-03-02 09:30\"", a.Time)
			}
		}},
	}, nil)
	return a
}

func (r *reader) probeCaller(n ast.Node) Caller {
	var c Caller
	r.mapping(n, "caller", []field{
		{"uid", false, func(v ast.Node) { c.UID = r.id(v, "uid") }},
		{"gid", false, func(v ast.Node) { c.GID = r.id(v, "gid") }},
		{"unit", false, func(v ast.Node) { c.Unit = r.text(v, "unit", 256) }},
		{"exe", false, func(v ast.Node) { c.Exe = r.text(v, "exe", 4096) }},
		{"container", false, func(v ast.Node) { c.Container = r.text(v, "container", 256) }},
		{"unattested", false, func(v ast.Node) { c.Unattested = r.boolean(v, "unattested") }},
	}, nil)
	return c
}

func (r *reader) probeWant(n ast.Node) probeWant {
	var w probeWant
	r.mapping(n, "want", []field{
		{"places", false, func(v ast.Node) { w.Places = values(r, v, "place", r.place(nil)) }},
		{"denied", false, func(v ast.Node) { b := r.boolean(v, "denied"); w.Denied = &b }},
		{"rule", false, func(v ast.Node) { w.Rule = r.text(v, "rule", 512) }},
		{"priority", false, func(v ast.Node) { w.Priority = r.choice(v, "priority", []string{Interactive, Batch}) }},
		{"max_tokens", false, func(v ast.Node) { m := r.integer(v, "max_tokens", 0, 1<<30); w.MaxTokens = &m }},
		{"classes", false, func(v ast.Node) { w.Classes = values(r, v, "class", r.name) }},
	}, nil)
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) == 0 {
		r.add(at(n), "want expects nothing")
	}
	return w
}
