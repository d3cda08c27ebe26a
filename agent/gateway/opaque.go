package gateway

import "strings"

// opaqueKeys name content that is not text here: media, files, embeddings, and ids
// of what is stored elsewhere. In lower case: some servers match keys without theirs.
var opaqueKeys = map[string]bool{
	"image_url": true, "image": true, "images": true, "input_image": true, "image_embeds": true,
	"input_audio": true, "audio": true, "audios": true, "audio_url": true, "audio_embeds": true,
	"video": true, "videos": true, "video_url": true, "multi_modal_data": true,
	"file": true, "files": true, "file_id": true, "file_ids": true, "file_url": true, "file_data": true, "input_file": true, "attachments": true,
	"previous_response_id": true, "conversation": true, "prompt_embeds": true, "input_embeds": true,
}

// readable are the types of messages, items and content parts that hold text alone.
var readable = map[string]bool{
	"text": true, "input_text": true, "output_text": true, "refusal": true, "summary_text": true, "thinking": true, "reasoning": true,
	"message": true, "function": true, "custom": true, "function_call": true, "function_call_output": true,
	"tool_call": true, "tool_use": true, "tool_result": true, "ephemeral": true,
}

// opaqueField tells whether a member of the body may hold what no detector reads.
// What is not known here counts as content.
func opaqueField(key string, value []byte) bool {
	l := look{numbers: true}
	switch strings.ToLower(key) {
	case "tools", "functions", "response_format":
		// Schemas: their keys are names that somebody chose, their text is scanned like all other.
		return false
	case "logit_bias", "stop_token_ids", "allowed_token_ids":
		l.numbers = false // tokens to avoid or to prefer
	case "messages", "prompt", "input":
		l.types = true
	}
	return opaqueKey(key, value) || l.opaque(&cursor{b: value})
}

func opaqueKey(key string, value []byte) bool {
	return opaqueKeys[strings.ToLower(key)] && string(value) != "null"
}

// look says what besides a key makes a value opaque.
type look struct {
	numbers bool // a number in an array, because it may be a token id
	types   bool // a type that is not readable
}

// opaque passes the value at the cursor, once, and tells whether any part of it is opaque.
func (l look) opaque(c *cursor) bool {
	found := false
	switch c.b[c.i] {
	case '{':
		c.enter(func() {
			key := decodeString(c.value())
			c.colon()
			start := c.i
			found = l.opaque(c) || found
			value := c.b[start:c.i]
			found = found || opaqueKey(key, value) || l.types && key == "type" && value[0] == '"' && !readable[decodeString(value)]
		})
	case '[':
		c.enter(func() {
			first := c.b[c.i]
			found = found || l.numbers && (first == '-' || first >= '0' && first <= '9')
			found = l.opaque(c) || found
		})
	default:
		c.value()
	}
	return found
}
