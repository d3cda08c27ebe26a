package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// Message is one message in OpenAI's form. It keeps every field that it was
// read with, in order, for the template to use.
type Message struct{ raw json.RawMessage }

// TextMessage is a message of plain text.
func TextMessage(role, content string) Message {
	raw, err := json.Marshal(struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}{role, content})
	if err != nil {
		return Message{} // two strings always marshal
	}
	return Message{raw}
}

// UnmarshalJSON reads a message object. Its role must be a string and its
// content a string, null, or parts of type text.
func (m *Message) UnmarshalJSON(b []byte) error {
	m.raw = bytes.Clone(b)
	_, err := m.value(form{})
	return err
}

// TextSize is the length of the message's own text in bytes, its parts added up.
func (m Message) TextSize() (n int) {
	var got struct {
		Content json.RawMessage `json:"content"`
	}
	var text string
	var parts []struct {
		Text string `json:"text"`
	}
	// The message was read before: what does not fit here has no text.
	if json.Unmarshal(m.raw, &got) != nil || json.Unmarshal(got.Content, &text) == nil {
		return len(text)
	}
	_ = json.Unmarshal(got.Content, &parts)
	for _, p := range parts {
		n += len(p.Text)
	}
	return n
}

// MarshalJSON writes the message as it was read.
func (m Message) MarshalJSON() ([]byte, error) {
	if m.raw == nil {
		return nil, errors.New("internal error: an empty message")
	}
	return m.raw, nil
}

// form is what a template can take.
type form struct {
	objectArgs bool // a tool call's arguments as an object, not as JSON text
	parts      bool // content as a list of parts, not joined to one text
}

// value is the message as a template of this form sees it.
func (m Message) value(as form) (*exec.Dict, error) {
	v, err := decode(m.raw)
	if err != nil {
		return nil, err
	}
	d, ok := v.(*exec.Dict)
	if !ok {
		return nil, errors.New("a message must be an object with role and content")
	}
	role, ok := get(d, "role").(string)
	if !ok || role == "" {
		return nil, errors.New("a message needs a role")
	}
	switch content := get(d, "content").(type) {
	case nil:
		if get(d, "tool_calls") == nil && role != "assistant" {
			return nil, fmt.Errorf("a message of role %q needs content", role)
		}
		set(d, "content", "")
	case string:
	case list:
		text, err := joinParts(content)
		if err != nil {
			return nil, err
		}
		if !as.parts {
			set(d, "content", text)
		}
	default:
		return nil, errors.New("content must be a string or a list of parts")
	}
	if as.objectArgs {
		parseArguments(d)
	}
	return d, nil
}

// joinParts joins text parts by newlines, as llama-server does.
func joinParts(parts list) (string, error) {
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		d, ok := p.(*exec.Dict)
		if !ok {
			return "", errors.New("a content part must be an object")
		}
		kind, _ := get(d, "type").(string)
		text, ok := get(d, "text").(string)
		if kind != "text" || !ok {
			return "", fmt.Errorf("a content part of type %q is not supported by this model, only text", kind)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n"), nil
}

// parseArguments replaces the JSON text of each tool call's arguments by its value.
func parseArguments(d *exec.Dict) {
	calls, _ := get(d, "tool_calls").(list)
	for _, c := range calls {
		call, ok := c.(*exec.Dict)
		if !ok {
			continue
		}
		f, ok := get(call, "function").(*exec.Dict)
		if !ok {
			continue
		}
		if text, ok := get(f, "arguments").(string); ok {
			if v, err := decode([]byte(text)); err == nil {
				set(f, "arguments", v)
			}
		}
	}
}

// continued says whether the conversation ends with words of the assistant,
// which the model is then to go on with, and gives them.
func continued(messages list) (words string, ok bool) {
	if len(messages) == 0 {
		return "", false
	}
	last, _ := messages[len(messages)-1].(*exec.Dict)
	if last == nil || get(last, "role") != "assistant" || get(last, "tool_calls") != nil {
		return "", false
	}
	words, _ = get(last, "content").(string)
	return words, words != ""
}

// foldSystem puts the text of system messages before the user's next words, for
// templates that have no place for it.
func foldSystem(messages list) list {
	var out list
	var held []string
	for _, m := range messages {
		d, _ := m.(*exec.Dict)
		text, _ := get(d, "content").(string)
		switch role := get(d, "role"); {
		case role == "system":
			held = append(held, text)
			continue
		case role == "user" && held != nil:
			set(d, "content", strings.Join(append(held, text), "\n"))
			held = nil
		}
		out = append(out, m)
	}
	if held != nil {
		out = append(out, &exec.Dict{Pairs: []*exec.Pair{
			{Key: exec.AsValue("role"), Value: exec.AsValue("user")},
			{Key: exec.AsValue("content"), Value: exec.AsValue(strings.Join(held, "\n"))},
		}})
	}
	return out
}
