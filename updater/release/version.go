package release

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// CheckVersion says whether v is the version of an engine: numbers with dots
// between, after letters that do not count. "b6123", "v0.9.1" and "11669" are.
func CheckVersion(v string) error {
	_, err := versionNumbers(v)
	return err
}

// CompareVersions is negative when engine version a is lower than b, positive
// when it is higher. A number that is missing counts as 0.
func CompareVersions(a, b string) (int, error) {
	x, err := versionNumbers(a)
	if err != nil {
		return 0, err
	}
	y, err := versionNumbers(b)
	if err != nil {
		return 0, err
	}
	for i := range max(len(x), len(y)) {
		if c := cmp.Compare(at(x, i), at(y, i)); c != 0 {
			return c, nil
		}
	}
	return 0, nil
}

func at(n []uint64, i int) uint64 {
	if i < len(n) {
		return n[i]
	}
	return 0
}

func versionNumbers(v string) ([]uint64, error) {
	digits := strings.TrimLeft(v, "abcdefghijklmnopqrstuvwxyz")
	parts := strings.Split(digits, ".")
	if len(v) > 64 || len(parts) > 8 {
		return nil, fmt.Errorf("engine version %.80q is too long", v)
	}
	var all []uint64
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 63)
		if err != nil {
			return nil, fmt.Errorf("engine version %q is not written as 0.9.1 or b6123", v)
		}
		all = append(all, n)
	}
	return all, nil
}
