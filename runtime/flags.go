package runtime

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// flagList is an allow-list: what a signed release may set on an engine, by long name without dashes.
// A release is trusted to choose a model's parameters, not to reach files, addresses or programs.
type flagList map[string]flagRule

// flagRule checks a value. A switch takes "true" and puts no value on the command line, or "false" for nothing at all.
type flagRule struct {
	onlyOn bool
	want   string // for the error text
	ok     func(string) bool
}

// args renders the flags in alphabetical order, or refuses the first that is not allowed, by name.
func (l flagList) args(engine string, flags map[string]string) ([]string, error) {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		rule, allowed := l[name]
		if !allowed {
			return nil, fmt.Errorf("a release may not set the flag %q of %s", name, engine)
		}
		v := flags[name]
		if !rule.ok(v) {
			return nil, fmt.Errorf("the flag %q of %s is %q, it takes %s", name, engine, v, rule.want)
		}
		switch {
		case !rule.onlyOn:
			out = append(out, "--"+name, v)
		case isOn(v):
			out = append(out, "--"+name)
		}
	}
	return out, nil
}

var onFlag = flagRule{onlyOn: true, want: "true or false", ok: func(v string) bool {
	return v == "true" || v == "false"
}}

var floatFlag = flagRule{want: "a number", ok: func(v string) bool {
	f, err := strconv.ParseFloat(v, 64)
	return err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}}

var numbersFlag = flagRule{want: "numbers with commas between", ok: func(v string) bool {
	for part := range strings.SplitSeq(v, ",") {
		if !floatFlag.ok(part) {
			return false
		}
	}
	return true
}}

func intFlag(lowest, highest int64) flagRule {
	return flagRule{want: fmt.Sprintf("a whole number from %d to %d", lowest, highest), ok: func(v string) bool {
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && n >= lowest && n <= highest
	}}
}

func choice(values ...string) flagRule {
	return flagRule{want: "one of " + strings.Join(values, ", "), ok: func(v string) bool {
		return slices.Contains(values, v)
	}}
}

func choiceOr(rule flagRule, values ...string) flagRule {
	return flagRule{want: rule.want + " or one of " + strings.Join(values, ", "), ok: func(v string) bool {
		return slices.Contains(values, v) || rule.ok(v)
	}}
}
