package mqtt

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

// The table of DESIGN.md names tests; a test that is renamed must not leave a fact without one.
func TestEveryFactHasItsTest(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, dir := range []string{"updater", "agent"} {
		err := filepath.WalkDir(filepath.Join(parts.Root(), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			raw, err := os.ReadFile(path)
			all.Write(raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(names) < 20 {
		t.Errorf("found %d tests in DESIGN.md, want them all", len(names))
	}
	for _, m := range names {
		if !bytes.Contains(all.Bytes(), []byte("\nfunc "+string(m[1])+"(")) {
			t.Errorf("DESIGN.md names %s, which is not there", m[1])
		}
	}
}
