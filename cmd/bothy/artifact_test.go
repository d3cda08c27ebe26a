package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bothy-edge/bothy/updater"
)

func TestArtifactsAreListedWithTheirReasonsAndSums(t *testing.T) {
	digest := func(c string) string { return strings.Repeat(c, 64) }
	var out bytes.Buffer
	err := printArtifacts(&out, []updater.Artifact{
		{SHA256: digest("a"), Size: 3 << 20, Taken: 3 << 20, Path: "m.gguf", Releases: []string{"mote@2"}, Why: []string{"running", "pinned"}},
		{SHA256: digest("b"), Size: 2 << 20, Taken: 2 << 20, Path: "m.gguf", Releases: []string{"mote@1"}, Why: []string{"previous"}},
		{SHA256: digest("c"), Size: 1 << 20, Taken: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"aaaaaaaaaaaa  3.0 MiB  3.0 MiB  m.gguf  mote@2    running, pinned\n",
		"bbbbbbbbbbbb  2.0 MiB  2.0 MiB  m.gguf  mote@1    previous\n",
		"nothing: to be collected\n",
		"6.0 MiB in all; 2.0 MiB only for the set before (bothy artifact drop-previous), 1.0 MiB to be collected\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", &out, want)
		}
	}
}
