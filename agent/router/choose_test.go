package router

import (
	"slices"
	"testing"
	"testing/quick"
	"time"

	"github.com/bothy-edge/bothy/agent/policy"
)

const there, other = policy.Place("there"), policy.Place("other")

func up(places ...policy.Place) func(policy.Place) bool {
	return func(p policy.Place) bool { return slices.Contains(places, p) }
}

func TestPick(t *testing.T) {
	both := []policy.Place{policy.Local, there}
	cloudFirst := []policy.Place{there, policy.Local}
	here := []policy.Place{policy.Local}
	for name, c := range map[string]struct {
		places []policy.Place
		load   load
		first  Reason
		want   Choice
		ok     bool
	}{
		"idle":                        {both, load{phase: Ready, usable: up(there)}, "", Choice{policy.Local, Preferred}, true},
		"cloud preferred":             {cloudFirst, load{phase: Ready, usable: up(there)}, "", Choice{there, Preferred}, true},
		"cloud preferred but down":    {cloudFirst, load{phase: Ready, usable: up()}, "", Choice{policy.Local, UpstreamDown}, true},
		"busy":                        {both, load{phase: Ready, busy: true, usable: up(there)}, "", Choice{there, WaitTooLong}, true},
		"long queue":                  {both, load{phase: Ready, busy: true, overLong: true, usable: up(there)}, "", Choice{there, QueueFull}, true},
		"full":                        {both, load{phase: Ready, full: true, usable: up(there)}, "", Choice{there, QueueFull}, true},
		"loading":                     {both, load{phase: Loading, usable: up(there)}, "", Choice{there, IsLoading}, true},
		"switching":                   {both, load{phase: Switching, usable: up(there)}, "", Choice{there, IsSwitching}, true},
		"down":                        {both, load{phase: Down, usable: up(there)}, "", Choice{there, EngineDown}, true},
		"only the cloud has it":       {both, load{phase: Unknown, usable: up(there)}, "", Choice{there, EngineDown}, true},
		"busy, nowhere to go":         {here, load{phase: Ready, busy: true, usable: up(there)}, "", Choice{policy.Local, ByPolicy}, true},
		"busy, upstream down":         {both, load{phase: Ready, busy: true, usable: up()}, "", Choice{policy.Local, ByPolicy}, true},
		"down, nowhere to go: waits":  {here, load{phase: Down, usable: up(there)}, "", Choice{policy.Local, ByPolicy}, true},
		"full, nowhere to go":         {here, load{phase: Ready, full: true, usable: up(there)}, "", Choice{"", QueueFull}, false},
		"unknown here":                {here, load{phase: Unknown, usable: up(there)}, "", Choice{"", EngineDown}, false},
		"cloud only, down":            {[]policy.Place{there}, load{phase: Ready, usable: up()}, "", Choice{"", UpstreamDown}, false},
		"second upstream":             {[]policy.Place{there, other}, load{usable: up(other)}, "", Choice{other, UpstreamDown}, true},
		"the first reason stays":      {[]policy.Place{there}, load{phase: Ready, usable: up(there)}, TooLarge, Choice{there, TooLarge}, true},
		"nothing left":                {nil, load{phase: Ready, usable: up(there)}, EngineDown, Choice{"", EngineDown}, false},
		"waits here after a failure":  {here, load{phase: Ready, busy: true, usable: up()}, UpstreamDown, Choice{policy.Local, UpstreamDown}, true},
		"preferred again is not said": {here, load{phase: Ready, usable: up()}, AuditDown, Choice{policy.Local, AuditDown}, true},
	} {
		got, ok := pick(c.places, &c.load, c.first)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: got %v %v, want %v %v", name, got, ok, c.want, c.ok)
		}
	}
}

func TestPickStaysInsideTheSet(t *testing.T) {
	phases := []Phase{Unknown, Ready, Loading, Switching, Down}
	all := []policy.Place{policy.Local, there, other}
	check := func(set, alive, phase uint8, busy, overLong, full bool, wait int32) bool {
		var places, ups []policy.Place
		for i, p := range all {
			if set>>i&1 == 1 {
				places = append(places, p)
			}
			if alive>>i&1 == 1 {
				ups = append(ups, p)
			}
		}
		l := load{phase: phases[int(phase)%len(phases)], busy: busy, overLong: overLong, full: full, wait: time.Duration(wait), usable: up(ups...)}
		c, ok := pick(places, &l, "")
		return !ok || slices.Contains(places, c.Place) && slices.Contains(Reasons(), c.Reason)
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 20000}); err != nil {
		t.Error(err)
	}
}
