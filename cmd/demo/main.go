// Command demo shows the main job of bothy end to end on this machine: broker,
// depot, agent and a "cloud" run as real processes in a temporary folder, with
// the model that the project carries, and each step prints what proves it.
//
// `make demo` builds and runs it. It exits 0 when every step passed. Nothing is
// reached but loopback; everything it started has ended when it returns, unless
// -keep was given.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// limit is how long the whole demo may take; a step that hangs is reported by name.
const limit = 3 * time.Minute

type step struct {
	name string
	run  func(*site, context.Context) (proof string, err error)
}

var steps = []step{
	{"a signed model and policy arrive over MQTT", (*site).updateArrives},
	{"a chat is answered on the box", (*site).chatStaysLocal},
	{"a burst spills to the cloud, a card number stays", (*site).burstSpills},
	{"a policy update forbids the cloud", (*site).policyForbids},
	{"a model update switches under streaming clients", (*site).modelSwitches},
	{"a tampered release is refused", (*site).tamperedIsRefused},
	{"a release that fails its checks is undone", (*site).failingIsUndone},
	{"the agent is killed -9 and comes back", (*site).killedComesBack},
}

func main() {
	bothy := flag.String("bothy", "bin/bothy", "the binary to show")
	model := flag.String("model", "", "GGUF file to use in place of the project's own")
	keep := flag.Bool("keep", false, "leave everything running and print what to try")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *bothy, *model, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func demo(ctx context.Context, bothy, model string, keep bool) error {
	bothy, err := filepath.Abs(bothy)
	if err != nil {
		return err
	}
	s, err := newSite(bothy, model)
	if err != nil {
		return fmt.Errorf("cannot prepare the site: %w", err)
	}
	defer s.close()
	begin := time.Now()
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := s.start(within); err != nil {
		return fmt.Errorf("cannot start the site: %w\n%s", err, s.logs())
	}
	fmt.Printf("keys, broker, depot, cloud and agent are up in %.1f s\n\n", time.Since(begin).Seconds())
	passed := show(within, s)
	fmt.Printf("\ndemo: %d of %d steps passed in %.1f s\n", passed, len(steps), time.Since(begin).Seconds())
	if passed < len(steps) {
		fmt.Println(s.logs())
		return fmt.Errorf("%d of %d steps failed", len(steps)-passed, len(steps))
	}
	if keep {
		s.invite()
		<-ctx.Done()
	}
	return nil
}

// show runs the steps in order; a later step builds on the earlier ones, so the first failure ends it.
func show(ctx context.Context, s *site) (passed int) {
	for i, st := range steps {
		begin := time.Now()
		proof, err := st.run(s, ctx)
		took := time.Since(begin).Seconds()
		if err != nil {
			fmt.Printf("%d. FAILED  %-52s %6.1f s\n   %v\n", i+1, st.name, took, err)
			return passed
		}
		fmt.Printf("%d. %-60s %6.1f s\n   %s\n", i+1, st.name, took, strings.ReplaceAll(proof, "\n", "\n   "))
		passed++
	}
	return passed
}
