package fleet

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// Describe reads out of the metadata what a signature would stand for, line by
// line: it is what the person with the key decides by. What a request says it
// replaces counts only if a key in keys, which may be nil, signed that once, or
// if the request was made by this process; else all of it is shown as new. The
// lines have no characters that a terminal would obey.
func (r Request) Describe(keys *Keyring) ([]string, error) {
	var known []KeyInfo
	if keys != nil {
		var err error
		if known, err = keys.List(); err != nil {
			return nil, err
		}
	}
	var lines []string
	for _, u := range r.Documents {
		err := guard(func() error {
			text, err := u.describe(known, r.own)
			lines = append(lines, text...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", printable(u.name()), err)
		}
	}
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return lines, nil
}

// printable writes out what could move a cursor or hide a line.
func printable(line string) string {
	var out strings.Builder
	for _, c := range line {
		if unicode.IsPrint(c) {
			out.WriteRune(c)
			continue
		}
		out.WriteString(strings.Trim(strconv.QuoteRune(c), "'"))
	}
	return out.String()
}

func (u Unsigned) describe(known []KeyInfo, own bool) ([]string, error) {
	if u.Role == metadata.ROOT {
		next, err := parseRoot(u.Metadata)
		if err != nil {
			return nil, err
		}
		last, believed := metadata.Root(), false
		if len(u.Previous) > 0 {
			if last, believed, err = believe(parseRoot, u.Previous, known, own); err != nil {
				return nil, err
			}
		}
		if !believed {
			last = metadata.Root()
		}
		lines := u.heading(next.Signed.Version, next.Signed.Expires, believed)
		return append(lines, changes("role", topRoles(last), topRoles(next))...), nil
	}
	next, err := parseTargets(u.Metadata)
	if err != nil {
		return nil, err
	}
	last, believed := metadata.Targets(), false
	if len(u.Previous) > 0 {
		if last, believed, err = believe(parseTargets, u.Previous, known, own); err != nil {
			return nil, err
		}
	}
	if !believed {
		last = metadata.Targets()
	}
	lines := u.heading(next.Signed.Version, next.Signed.Expires, believed)
	lines = append(lines, changes("target", entries(last), entries(next))...)
	return append(lines, changes("role", delegated(last), delegated(next))...), nil
}

// believe parses what a document replaces and says whether one of the known
// keys signed it.
func believe[T metadata.Roles](parse func([]byte) (*metadata.Metadata[T], error), raw []byte, known []KeyInfo, own bool) (*metadata.Metadata[T], bool, error) {
	m, err := parse(raw)
	if err != nil || own {
		return m, own, err
	}
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return nil, false, err
	}
	for _, s := range m.Signatures {
		for _, k := range known {
			if k.ID == s.KeyID && k.verify(payload, s.Signature) {
				return m, true, nil
			}
		}
	}
	return m, false, nil
}

func (k KeyInfo) verify(payload, signature []byte) bool {
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, payload, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(payload)
		return ecdsa.VerifyASN1(public, sum[:], signature)
	}
	return false
}

func (u Unsigned) heading(version int64, expires time.Time, believed bool) []string {
	lines := []string{fmt.Sprintf("%s version %d, valid until %s", u.name(), version, expires.Format(time.DateOnly))}
	if !believed {
		lines = append(lines, "  no key here signed what this replaces, so all of it is listed")
	}
	return lines
}

// changes lists what differs between two states, in the order of its names.
func changes(what string, last, next map[string]string) []string {
	var lines []string
	all := maps.Clone(last)
	maps.Copy(all, next)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		before, had := last[name]
		after, has := next[name]
		switch {
		case had && has && before == after:
		case !had:
			lines = append(lines, fmt.Sprintf("  + %s %s: %s", what, name, after))
		case !has:
			lines = append(lines, fmt.Sprintf("  - %s %s: %s", what, name, before))
		default:
			lines = append(lines, fmt.Sprintf("  ! %s %s: %s, was %s", what, name, after, before))
		}
	}
	return lines
}

func entries(m *metadata.Metadata[metadata.TargetsType]) map[string]string {
	out := map[string]string{}
	for path, entry := range m.Signed.Targets {
		out[path] = fmt.Sprintf("sha256:%s, %d bytes", hex.EncodeToString(entry.Hashes["sha256"]), entry.Length)
	}
	if a := m.Signed.UnrecognizedFields[release.AssignmentField]; a != nil {
		out["assignment"] = fmt.Sprint(a)
	}
	return out
}

func delegated(m *metadata.Metadata[metadata.TargetsType]) map[string]string {
	out := map[string]string{}
	d := m.Signed.Delegations
	if d == nil {
		return out
	}
	for i, role := range d.Roles {
		text := fmt.Sprintf("%s for %s", keysOf(role.KeyIDs, role.Threshold), strings.Join(append(slices.Clone(role.Paths), role.PathHashPrefixes...), " "))
		if !role.Terminating {
			text += ", and others after it"
		}
		out[fmt.Sprintf("%d %s", i+1, role.Name)] = text
	}
	if s := d.SuccinctRoles; s != nil {
		out[s.NamePrefix+"-*"] = keysOf(s.KeyIDs, s.Threshold) + " for everything"
	}
	return out
}

func topRoles(m *metadata.Metadata[metadata.RootType]) map[string]string {
	out := map[string]string{}
	for name, role := range m.Signed.Roles {
		if len(role.KeyIDs) > 0 {
			out[name] = keysOf(role.KeyIDs, role.Threshold)
		}
	}
	return out
}

func keysOf(ids []string, threshold int) string {
	return fmt.Sprintf("%d of %s", threshold, strings.Join(slices.Sorted(slices.Values(shorten(ids))), " "))
}
