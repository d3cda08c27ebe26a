package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnrolmentBelongsToTheOwnerOfTheState(t *testing.T) {
	state := t.TempDir()
	if err := ownState(state, os.Geteuid(), "x"); err != nil {
		t.Errorf("got %v for the owner, want nothing", err)
	}
	if err := ownState(filepath.Join(state, "missing"), os.Geteuid()+1, "x"); err != nil {
		t.Errorf("got %v for a folder that is made first, want nothing", err)
	}
	err := ownState(state, os.Geteuid()+1, "bothy enroll t.json --device box")
	var hinted withHint
	if !errors.As(err, &hinted) || !strings.HasPrefix(hinted.hint, "sudo runuser -u ") || !strings.HasSuffix(hinted.hint, " -- bothy enroll t.json --device box") {
		t.Errorf("got %v with the hint %q, want the command as the owner", err, hinted.hint)
	}
}
