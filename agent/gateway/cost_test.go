package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/policy/detect"
)

// A body must not cost much more than the one look that the detectors take at it, whatever is in it.
func TestParsingIsLinear(t *testing.T) {
	const size = 4 << 20
	for name, body := range map[string]string{
		"escapes": `{"model":"m","prompt":"` + strings.Repeat(`a line\n`, size/8) + `"}`,
		"quotes":  `{"model":"m","prompt":"` + strings.Repeat(`\"`, size/2) + `"}`,
		"nesting": `{"model":"m","x":` + strings.Repeat("[", 120) + strings.Repeat("1,", size/2) + "1" + strings.Repeat("]", 120) + `}`,
		"keys":    `{"model":"m","x":` + strings.Repeat(`{"a":`, 120) + `[` + strings.Repeat(`"b",`, size/4) + `"b"]` + strings.Repeat("}", 120) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			if _, _, err := detect.JSON([]byte(body)); err != nil {
				t.Fatal(err)
			}
			look := time.Since(began)
			began = time.Now()
			b, err := parse([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.Cloud("m", 0); err != nil {
				t.Fatal(err)
			}
			// Two looks, and as many passes over the bytes. Once a level would be a hundred, quadratic thousands.
			if took := time.Since(began); took > 30*look+500*time.Millisecond {
				t.Errorf("%d bytes took %s, one look %s", len(body), took, look)
			}
		})
	}
}
