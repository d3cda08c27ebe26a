package gateway

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An answer that nobody reads gives its place in the engine back.
func TestWholeAnswerThatNobodyReadsGivesTheEngineBack(t *testing.T) {
	b := newBox(t, localFirst)
	b.gate.writeTimeout = 50 * time.Millisecond
	b.set(func() {
		b.engine = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"data":"`+strings.Repeat("x", 900<<10)+`"}`)
		})
	})
	b.raw("POST /v1/embeddings HTTP/1.1\r\nHost: b\r\nContent-Length: " + strconv.Itoa(len(hello)) + "\r\n\r\n" + hello)
	b.await("the engine was used", func() bool { return b.leases.Load() == 1 })
	b.await("the engine was given back", func() bool { return b.leases.Load() == 0 })
}
