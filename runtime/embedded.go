package runtime

import (
	"fmt"
	"strconv"
)

// Embedded runs the engine that bothy carries: the same binary, executed again.
type Embedded struct {
	Exe string   // path of bothy; os.Executable's answer goes stale over a package upgrade, /proc/self/exe does not
	Env []string // "NAME=value"
}

// Command is `bothy engine serve` on the model file. It takes no flags from a release.
func (e Embedded) Command(spec Spec, socket string) (Command, error) {
	if len(spec.Files) != 1 {
		return Command{}, fmt.Errorf("the embedded engine takes one model file, the release names %d", len(spec.Files))
	}
	if err := spec.plain("the embedded engine"); err != nil {
		return Command{}, err
	}
	if _, err := (flagList{}).args("the embedded engine", spec.Flags); err != nil {
		return Command{}, err
	}
	args := []string{
		"engine", "serve", "--listen", "unix:" + socket, "--model", spec.Files[0],
		"--alias", spec.Alias, "--slots", strconv.Itoa(spec.slots()), "--tether",
	}
	if spec.Context > 0 {
		args = append(args, "--context", strconv.Itoa(spec.Context))
	}
	if spec.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(spec.Threads))
	}
	return Command{Path: e.Exe, Args: args, Env: e.Env, Tether: true, Ask: askText}, nil
}
