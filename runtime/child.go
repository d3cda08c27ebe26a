package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// pipeDelay bounds the wait for output after the engine exited: something that it started may hold the pipe.
	pipeDelay = time.Second
	// reapDelay bounds the wait after SIGKILL. A process deep in a driver (state D) can take longer; it is reported then.
	reapDelay = 10 * time.Second
	// markVar marks an engine and all that it starts with the socket it serves, so that they can be told from others.
	markVar = "BOTHY_ENGINE_SOCKET"
)

// inherited are the variables that an engine takes over from the agent. Everything else stays behind:
// credentials, the notify socket, and LLAMA_ARG_* variables, which would act like flags.
var inherited = []string{
	"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH",
	"CUDA_", "NVIDIA_", "GGML_", "OMP_", "GOMAXPROCS", "GOCOVERDIR",
}

// Children launches engines as plain children that die with this process, whatever ends it.
//
// A child's parent-death signal fires when the thread that forked it ends (prctl(2), PR_SET_PDEATHSIG), so all
// children are forked from one thread that lives until Close. Safe for concurrent use.
type Children struct {
	orders chan func()
	once   sync.Once // closes quit
	quit   chan struct{}
	done   chan struct{}
}

// oomScore is what engines add to their badness (proc(5), oom_score_adj: -1000 to 1000).
const oomScore = "500"

// NewChildren starts the forking thread. The caller must Close it.
func NewChildren() *Children {
	c := &Children{orders: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	return c
}

func (c *Children) run() {
	defer close(c.done)
	// Never unlocked: the thread then ends with this goroutine, and with it whatever was not stopped.
	goruntime.LockOSThread()
	for {
		select {
		case fork := <-c.orders:
			fork()
		case <-c.quit:
			return
		}
	}
}

// Close ends the forking thread. Children that still run get SIGKILL.
func (c *Children) Close() error {
	c.once.Do(func() { close(c.quit) })
	<-c.done
	return nil
}

// Launch starts the order's command in a process group of its own.
func (c *Children) Launch(o Order) (Process, error) {
	cmd := exec.Command(o.Command.Path, o.Command.Args...)
	cmd.Dir = o.Dir
	cmd.Env = environment(os.Environ(), o)
	cmd.Stdout, cmd.Stderr = o.Output, o.Output // one writer for both: exec then uses one pipe and one goroutine
	cmd.WaitDelay = pipeDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &child{cmd: cmd, mark: markVar + "=" + o.Socket, done: make(chan struct{})}
	if o.Command.Tether {
		tether, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("cannot make the engine's tether: %w", err)
		}
		p.tether = tether
	}
	err := ErrClosed
	forked := make(chan struct{})
	select {
	case c.orders <- func() { err = cmd.Start(); close(forked) }:
		<-forked
	case <-c.done:
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", o.Command.Path, err)
	}
	// When memory runs out the kernel shall take the engine, which is started again, not the agent.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(oomScore), 0) // a hint; without it all still works
	go p.wait()
	return p, nil
}

func environment(all []string, o Order) []string {
	env := []string{markVar + "=" + o.Socket}
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		for _, allowed := range inherited {
			if name == allowed || strings.HasSuffix(allowed, "_") && strings.HasPrefix(name, allowed) {
				env = append(env, kv)
			}
		}
	}
	return append(env, o.Command.Env...)
}

// child is one plain child process.
type child struct {
	cmd    *exec.Cmd
	mark   string
	tether io.Closer // nil without one
	done   chan struct{}
	err    error // written before done is closed
}

func (p *child) wait() {
	err := p.cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the engine itself ended with 0; who held its pipe is killed below
	}
	// What the engine started and did not take along; it may have left the process group, not its environment.
	killMarked(func(mark string) bool { return mark == p.mark })
	p.err = err
	close(p.done)
}

func (p *child) PID() int              { return p.cmd.Process.Pid }
func (p *child) Done() <-chan struct{} { return p.done }
func (p *child) Err() error            { return p.err }

// Stop signals the whole group, so that a wrapper script's engine hears it too.
func (p *child) Stop(grace time.Duration) error {
	if p.tether != nil {
		defer p.tether.Close()
	}
	if grace > 0 && p.signal(syscall.SIGTERM, grace) {
		return nil
	}
	if p.signal(syscall.SIGKILL, reapDelay+pipeDelay) {
		return nil
	}
	return fmt.Errorf("process %d did not end within %v of SIGKILL; it is probably stuck in a device driver", p.PID(), reapDelay)
}

// signal sends sig to the group unless the process is gone, and reports whether it was gone within the limit.
func (p *child) signal(sig syscall.Signal, limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	// While Done is open the leader is not reaped or its group is being killed anyway, so the number is still ours.
	syscall.Kill(-p.PID(), sig)
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}
