package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/trust"
)

// Request is metadata on its way to the keys that must sign it, and back. It
// is a file that may travel on a stick and holds no secret. Whoever carries it
// can change it, so a signer believes only what Describe reads out of the
// metadata itself, and Apply verifies it all.
type Request struct {
	Schema    int        `json:"schema"`
	Tenant    string     `json:"tenant"`
	Documents []Unsigned `json:"documents"`

	own bool // made here, so what it says it replaces is true
}

// Unsigned is one document of a request, with the signatures it has so far.
type Unsigned struct {
	Repo     trust.Repo      `json:"repo"`
	Role     string          `json:"role"`
	Needs    []Quorum        `json:"needs"` // all of them
	Metadata json.RawMessage `json:"metadata"`
	// Previous is what the document replaces, so that a signer can be told what is new.
	Previous json.RawMessage `json:"previous,omitempty"`
}

// Quorum is a number of keys, out of some, that must sign.
type Quorum struct {
	Keys      []string `json:"keys"` // ids
	Threshold int      `json:"threshold"`
}

// maxRequest bounds a request file in bytes.
const maxRequest = 32 << 20

func quorum(role metadata.Role) Quorum { return Quorum{Keys: role.KeyIDs, Threshold: role.Threshold} }

// ReadRequest loads a request file.
func ReadRequest(path string) (Request, error) {
	var r Request
	info, err := os.Stat(path)
	if err != nil {
		return r, fmt.Errorf("cannot read request: %w", err)
	}
	if info.Size() > maxRequest {
		return r, fmt.Errorf("cannot read request %s: %d bytes, at most %d are accepted", path, info.Size(), maxRequest)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("cannot read request: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("cannot read request %s: %w", path, err)
	}
	if r.Schema != 1 || len(r.Documents) == 0 {
		return r, fmt.Errorf("cannot read request %s: schema %d with %d documents; this bothy reads 1", path, r.Schema, len(r.Documents))
	}
	return r, nil
}

// Write stores a request in a file.
func (r Request) Write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("internal error: cannot encode request: %w", err)
	}
	return writeFile(path, append(raw, '\n'), 0o644)
}

// Sign adds the signatures of the keys that are wanted and in the keyring, and
// returns the names of the documents that got one. Of keys that need a passphrase it
// asks only for as many as are missing.
func (r *Request) Sign(keys *Keyring) ([]string, error) {
	var signed []string
	for i := range r.Documents {
		u := &r.Documents[i]
		added, err := u.sign(keys)
		if err != nil {
			return signed, fmt.Errorf("cannot sign %s: %w", u.name(), err)
		}
		if added {
			signed = append(signed, u.name())
		}
	}
	return signed, nil
}

func (u Unsigned) name() string { return string(u.Repo) + " " + u.Role }

func (u *Unsigned) sign(keys *Keyring) (added bool, err error) {
	err = guard(func() error {
		if u.Role == metadata.ROOT {
			root, err := parseRoot(u.Metadata)
			if err != nil {
				return err
			}
			added, u.Metadata, err = signWhatIsMissing(root, u.Needs, keys)
			return err
		}
		targets, err := parseTargets(u.Metadata)
		if err != nil {
			return err
		}
		added, u.Metadata, err = signWhatIsMissing(targets, u.Needs, keys)
		return err
	})
	return added, err
}

func signWhatIsMissing[T metadata.Roles](m *metadata.Metadata[T], needs []Quorum, keys *Keyring) (added bool, raw []byte, err error) {
	for _, q := range needs {
		missing := q.without(m.Signatures)
		signers, err := keys.signers(missing, q.Threshold-(len(q.Keys)-len(missing)))
		if err != nil {
			return false, nil, err
		}
		if err := addSignatures(m, signers...); err != nil {
			return false, nil, err
		}
		added = added || len(signers) > 0
	}
	raw, err = encode(m)
	return added, raw, err
}

// without lists the keys that have not signed.
func (q Quorum) without(signatures []metadata.Signature) []string {
	var missing []string
	for _, id := range q.Keys {
		if !slices.ContainsFunc(signatures, func(s metadata.Signature) bool { return s.KeyID == id }) {
			missing = append(missing, id)
		}
	}
	return missing
}

// Missing says which signatures are still wanted, a line for each set of keys; it
// is empty when the request can be applied.
func (r Request) Missing() []string {
	var lines []string
	for _, u := range r.Documents {
		var m struct{ Signatures []metadata.Signature }
		if err := json.Unmarshal(u.Metadata, &m); err != nil {
			lines = append(lines, fmt.Sprintf("%s cannot be read: %v", u.name(), err))
			continue
		}
		for _, q := range u.Needs {
			missing := q.without(m.Signatures)
			n := q.Threshold - (len(q.Keys) - len(missing))
			line := fmt.Sprintf("%s needs %d more of the keys %s", u.name(), n, strings.Join(shorten(missing), " "))
			if n > 0 && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// shorten cuts key ids to what tells them apart.
func shorten(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id[:min(16, len(id))]
	}
	return out
}

// guard turns a panic of a parser, over a file that was carried about, into an error.
func guard(step func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is malformed: %v", p)
		}
	}()
	return step()
}

var errStale = errors.New("the fleet has moved on since the request was made; make a new one")

func parseRoot(raw []byte) (*metadata.Metadata[metadata.RootType], error) {
	root, err := metadata.Root().FromBytes(raw)
	if err != nil {
		return nil, err
	}
	return root, checkIDs(root.Signed.Keys)
}

func parseTargets(raw []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	targets, err := metadata.Targets().FromBytes(raw)
	if err != nil || targets.Signed.Delegations == nil {
		return targets, err
	}
	return targets, checkIDs(targets.Signed.Delegations.Keys)
}

// checkIDs makes sure that a key is the one its id says: people compare ids,
// and the verifier takes the key.
func checkIDs(keys map[string]*metadata.Key) error {
	for id, key := range keys {
		if key == nil {
			return fmt.Errorf("key %.80q is empty", id)
		}
		public, err := key.ToPublicKey()
		if err != nil {
			return fmt.Errorf("key %.80q: %w", id, err)
		}
		if _, want, err := keyID(public); err != nil || want != id {
			return fmt.Errorf("key %.80q is not the key with that id (%v)", id, err)
		}
	}
	return nil
}
