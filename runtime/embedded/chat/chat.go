// Package chat renders a conversation into the prompt that a model was trained
// on, by the Jinja template that its GGUF file carries (tokenizer.chat_template).
//
// Templates are run by gonja, which differs from Jinja2 in ways that reach the
// prompt: it sorts objects, writes JSON without spaces, cannot unpack in a set
// tag. Package chat mends these from outside and leaves the library as it is;
// the tests hold the result to llama-server's /apply-template. A template cannot
// reach files, cannot include others, and is bounded in output, in macros, in
// loop bodies and in the text that it makes and reads, which bounds its time to
// seconds. A list's own methods are not counted, so templates are still rendered
// only where a process is an engine's own. A template that fails says so as an error: there is no second, built-in format
// to fall back to, because a prompt of the wrong shape gives silent nonsense.
//
// A Template is safe for concurrent use. It does no I/O.
package chat

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

const (
	maxTemplate = 1 << 20  // bytes of template source
	maxPrompt   = 64 << 20 // bytes of rendered prompt
	maxSteps    = 1 << 15  // numbers that range() gives out in one rendering
)

// Template is one model's chat template.
type Template struct {
	// Now is the clock behind strftime_now. Set before the first Render.
	Now func() time.Time

	bos, eos string
	parsed   *exec.Template
	mu       sync.Mutex // gonja's parsed tree holds macros that a rendering binds
	budget   budget     // guarded by mu
	steps    int        // numbers range() may still give out; guarded by mu
	depth    int        // macros being rendered inside each other; guarded by mu
	raised   string     // what raise_exception said, which the library's errors lose; guarded by mu
	refused  bool       // raise_exception was called; guarded by mu
	form     form       // found out by trial in New
	noSystem bool       // the template has no place for a system message
}

// New parses a template. bos and eos are the texts of the vocabulary's begin
// and end tokens, "" where it has none.
func New(template, bos, eos string) (*Template, error) {
	if template == "" {
		return nil, errors.New("cannot render a chat: the model has no chat template: use /v1/completions")
	}
	if len(template) > maxTemplate {
		return nil, fmt.Errorf("cannot read the chat template: it has %d bytes, the limit is %d", len(template), maxTemplate)
	}
	t := &Template{Now: time.Now, bos: bos, eos: eos}
	env, err := t.environment()
	if err != nil {
		return nil, fmt.Errorf("internal error: chat template environment: %w", err)
	}
	if t.parsed, err = parse(rewrite(template), env); err != nil {
		return nil, err
	}
	bind(t.parsed)
	t.form = form{objectArgs: t.wantsObjectArgs(), parts: t.takesParts()}
	t.noSystem = t.ignoresSystem()
	return t, nil
}

func parse(source string, env *exec.Environment) (parsed *exec.Template, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot read the chat template: %v", p)
		}
	}()
	const name = "/template"
	loader, err := loaders.NewMemoryLoader(map[string]string{name: source})
	if err != nil {
		return nil, fmt.Errorf("internal error: template loader: %w", err)
	}
	// trim_blocks and lstrip_blocks, which Transformers and llama.cpp set, are done by rewrite.
	if parsed, err = exec.NewTemplate(name, config.New(), loader, env); err != nil {
		// The library's text quotes the whole source; its cause comes last.
		text := err.Error()
		if i := strings.LastIndex(text, "': "); i >= 0 {
			text = text[i+3:]
		}
		return nil, fmt.Errorf("cannot read the chat template: %s", text)
	}
	return parsed, nil
}

// Render returns the prompt for messages. tools are OpenAI tool definitions,
// each a json.RawMessage (which keeps the order of its keys), map or the like;
// with addGenerationPrompt the prompt ends where the assistant is to speak, or
// after its last words when the last message is the assistant's. extra adds variables for the
// template, such as enable_thinking.
func (t *Template) Render(messages []Message, tools []any, addGenerationPrompt bool, extra map[string]any) (string, error) {
	vars := maps.Clone(extra)
	if vars == nil {
		vars = map[string]any{}
	}
	for key, v := range vars {
		value, err := toValue(v)
		if err != nil {
			return "", fmt.Errorf("cannot use the template variable %q: %w", key, err)
		}
		vars[key] = value
	}
	values, err := valuesOf(messages, t.form)
	if err != nil {
		return "", err
	}
	if t.noSystem {
		values = foldSystem(values)
	}
	vars["messages"] = values
	if len(tools) > 0 {
		value, err := toValue(tools)
		if err != nil {
			return "", fmt.Errorf("cannot use the tools: %w", err)
		}
		vars["tools"] = value
	}
	words, goesOn := continued(values)
	vars["add_generation_prompt"] = addGenerationPrompt && !goesOn
	vars["bos_token"], vars["eos_token"] = t.bos, t.eos
	text, err := t.run(vars)
	if i := strings.LastIndex(text, words); err == nil && addGenerationPrompt && goesOn && i >= 0 {
		text = text[:i+len(words)]
	}
	return text, err
}

func (t *Template) run(vars map[string]any) (text string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		// The library panics on operands that it does not expect, such as a division by zero.
		if p := recover(); p != nil {
			text, err = "", fmt.Errorf("cannot render the chat template: %v", p)
		}
	}()
	t.budget.reset()
	t.steps, t.depth, t.refused = maxSteps, 0, false
	var out bounded
	if err := t.parsed.Execute(&out, exec.NewContext(vars)); err != nil {
		if t.refused {
			return "", &RaisedError{t.raised}
		}
		return "", fmt.Errorf("cannot render the chat template: %w", plain(err))
	}
	return out.String(), nil
}

// plain keeps the innermost cause: the library wraps an error once for each
// node it passed, quoting the template each time.
func plain(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// RaisedError is a template's own refusal, by raise_exception: for example that
// the roles do not alternate. It is the caller's fault, not the template's.
type RaisedError struct{ Message string }

func (e *RaisedError) Error() string {
	return "the chat template refuses the messages: " + e.Message
}

// bounded is a buffer that ends a rendering that writes without end.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxPrompt {
		return 0, fmt.Errorf("the prompt is over %d bytes", maxPrompt)
	}
	return b.Buffer.Write(p)
}

// wantsObjectArgs finds out by trial whether the template can take a tool
// call's arguments as an object: OpenAI clients send a string, and a template
// that applies tojson would quote it a second time.
func (t *Template) wantsObjectArgs() bool {
	const call = `{"role":"assistant","content":"","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"needle\":\"x\"}"}}]}`
	text := t.try(form{objectArgs: true}, TextMessage("user", "hi"), Message{raw: []byte(call)})
	return strings.Contains(text, "needle") && !strings.Contains(text, "'needle'")
}

// takesParts finds out by trial whether the template walks over a list of content parts.
func (t *Template) takesParts() bool {
	const parts = `{"role":"user","content":[{"type":"text","text":"needle"}]}`
	text := t.try(form{parts: true}, Message{raw: []byte(parts)})
	return strings.Contains(text, "needle") && !strings.Contains(text, "'needle'") && !strings.Contains(text, `"needle"`)
}

// ignoresSystem finds out by trial whether the template drops or refuses a system message.
func (t *Template) ignoresSystem() bool {
	return !strings.Contains(t.try(form{}, TextMessage("system", "needle"), TextMessage("user", "hi")), "needle")
}

// try renders messages for a trial; "" where the template fails on them.
func (t *Template) try(as form, messages ...Message) string {
	values, err := valuesOf(messages, as)
	if err != nil {
		return ""
	}
	text, err := t.run(map[string]any{"messages": values, "add_generation_prompt": true, "bos_token": t.bos, "eos_token": t.eos})
	if err != nil {
		return ""
	}
	return text
}

func valuesOf(messages []Message, as form) (list, error) {
	out := make(list, 0, len(messages))
	for i, m := range messages {
		v, err := m.value(as)
		if err != nil {
			return nil, fmt.Errorf("cannot use message %d: %w", i, err)
		}
		out = append(out, v)
	}
	return out, nil
}
