package fleet

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/bothy-edge/bothy/updater/release"
)

// Keyring is the folder keys/ of a fleet, or of a machine that only signs. A
// key is NAME.pem, encrypted or not, with its public half beside it in NAME.pub
// so that it can be listed while it is locked. Safe for concurrent use.
type Keyring struct {
	// Ask is called for the passphrase of an encrypted key that is needed. Nil,
	// or an empty answer, leaves the key locked. Set before use.
	Ask func(name string) ([]byte, error)

	dir  string // holds keys/
	work int    // log2 of the cost of a passphrase, 0 for the default

	mu   sync.Mutex // guards open
	open map[string]crypto.Signer
}

// KeyInfo describes one key of a folder.
type KeyInfo struct {
	Name      string   `json:"name"`
	ID        string   `json:"id"` // as signed metadata names it
	Algorithm string   `json:"algorithm"`
	Encrypted bool     `json:"encrypted"`
	Private   bool     `json:"private"`        // the private half is here
	Sets      []string `json:"sets,omitempty"` // that trust it; filled by Fleet.ListKeys

	public crypto.PublicKey
}

// OpenKeys is the keyring in dir/keys, which need not exist yet.
func OpenKeys(dir string) *Keyring {
	return &Keyring{dir: dir, open: map[string]crypto.Signer{}}
}

func (k *Keyring) path(name, suffix string) string { return filepath.Join(k.dir, "keys", name+suffix) }

// Create makes a key, encrypted unless the passphrase is empty. It replaces
// nothing. No device trusts it before it is rotated in.
func (k *Keyring) Create(name, algorithm string, passphrase []byte) (KeyInfo, error) {
	if err := release.CheckName(name); err != nil {
		return KeyInfo{}, fmt.Errorf("cannot create key: %w", err)
	}
	for _, suffix := range []string{".pem", ".pub"} {
		if _, err := os.Lstat(k.path(name, suffix)); !errors.Is(err, fs.ErrNotExist) {
			return KeyInfo{}, fmt.Errorf("cannot create key %s: there is %s already", name, k.path(name, suffix))
		}
	}
	key, err := newPrivateKey(algorithm)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("cannot create key %s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Join(k.dir, "keys"), 0o700); err != nil {
		return KeyInfo{}, fmt.Errorf("cannot create key %s: %w", name, err)
	}
	if err := k.write(name, key, passphrase); err != nil {
		return KeyInfo{}, err
	}
	return k.info(name)
}

// write stores the public half first: a private key without it could not be told apart while it is locked.
func (k *Keyring) write(name string, key crypto.Signer, passphrase []byte) error {
	public, err := encodePublic(key.Public())
	if err != nil {
		return err
	}
	if err := writeFile(k.path(name, ".pub"), public, 0o644); err != nil {
		return err
	}
	return writePrivate(k.path(name, ".pem"), key, passphrase, k.work)
}

// SetPassphrase encrypts a key anew; an empty passphrase leaves it unencrypted.
func (k *Keyring) SetPassphrase(name string, passphrase []byte) error {
	key, err := k.unlock(name)
	if err != nil {
		return err
	}
	return k.write(name, key, passphrase)
}

// Public returns the public half of a key.
func (k *Keyring) Public(name string) (crypto.PublicKey, error) {
	info, err := k.info(name)
	return info.public, err
}

// Export returns the public half of a key, as PKIX in PEM.
func (k *Keyring) Export(name string) ([]byte, error) {
	key, err := k.Public(name)
	if err != nil {
		return nil, err
	}
	return encodePublic(key)
}

// List describes the keys in the folder, by name. It asks for no passphrase.
// Other things that lie there, like a certificate, are passed over.
func (k *Keyring) List() ([]KeyInfo, error) {
	entries, err := os.ReadDir(filepath.Join(k.dir, "keys"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list keys: %w", err)
	}
	var names []string
	for _, e := range entries {
		name, private := strings.CutSuffix(e.Name(), ".pem")
		name, public := strings.CutSuffix(name, ".pub")
		if (private || public) && release.CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []KeyInfo
	for _, name := range slices.Compact(names) {
		info, err := k.info(name)
		if errors.Is(err, errNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

// info reads the public half, from the private one where that is not encrypted.
func (k *Keyring) info(name string) (KeyInfo, error) {
	info := KeyInfo{Name: name}
	text, kind, err := readPrivateFile(k.path(name, ".pem"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return info, err
	default:
		info.Private, info.Encrypted = true, kind == pemEncrypted
	}
	if info.Private && !info.Encrypted {
		key, err := parsePrivate(k.path(name, ".pem"), text)
		if err != nil {
			return info, err
		}
		info.public = key.Public()
	} else if info.public, err = ReadPublicKey(k.path(name, ".pub")); err != nil {
		if info.Encrypted && errors.Is(err, fs.ErrNotExist) {
			return info, fmt.Errorf("cannot tell whose key %s is: its public half %s is gone; run: bothy fleet key passphrase %s %s",
				name, k.path(name, ".pub"), k.dir, name)
		}
		return info, err
	}
	if info.Algorithm, err = algorithmOf(info.public); err != nil {
		return info, err
	}
	_, info.ID, err = keyID(info.public)
	return info, err
}

// unlock loads a private key, asking for its passphrase the first time.
func (k *Keyring) unlock(name string) (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.open[name]; key != nil {
		return key, nil
	}
	path := k.path(name, ".pem")
	text, kind, err := readPrivateFile(path)
	if err != nil {
		return nil, err
	}
	if kind == pemEncrypted {
		if text, err = k.decrypt(name, text); err != nil {
			return nil, err
		}
	}
	key, err := parsePrivate(path, text)
	if err != nil {
		return nil, err
	}
	if kind == pemEncrypted {
		k.open[name] = key
	}
	return key, nil
}

// errLocked is an encrypted key for which no passphrase was given.
var errLocked = errors.New("it is encrypted and no passphrase was given")

func (k *Keyring) decrypt(name string, text []byte) ([]byte, error) {
	var passphrase []byte
	if k.Ask != nil {
		var err error
		if passphrase, err = k.Ask(name); err != nil {
			return nil, err
		}
	}
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("cannot open key %s: %w", name, errLocked)
	}
	text, err := decrypt(text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot open key %s: %w", name, err)
	}
	return text, nil
}

// signers returns keys that are among ids and here: all that need no
// passphrase, and of those that do only what is missing to enough. Fewer than
// enough is no error.
func (k *Keyring) signers(ids []string, enough int) ([]crypto.Signer, error) {
	all, err := k.List()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b KeyInfo) int {
		switch {
		case a.Encrypted == b.Encrypted:
			return 0
		case b.Encrypted:
			return -1
		}
		return 1
	})
	var keys []crypto.Signer
	var seen []string
	for _, info := range all {
		if !info.Private || !slices.Contains(ids, info.ID) || slices.Contains(seen, info.ID) || info.Encrypted && len(keys) >= enough {
			continue
		}
		key, err := k.unlock(info.Name)
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, id, err := keyID(key.Public()); err != nil || id != info.ID {
			return nil, fmt.Errorf("cannot use key %s: %s is the public half of another key", info.Name, k.path(info.Name, ".pub"))
		}
		keys, seen = append(keys, key), append(seen, info.ID)
	}
	return keys, nil
}

// locked names a key among ids that is here and encrypted.
func (k *Keyring) locked(ids []string) string {
	all, err := k.List()
	if err != nil {
		return ""
	}
	for _, info := range all {
		if info.Private && info.Encrypted && slices.Contains(ids, info.ID) {
			return info.Name
		}
	}
	return ""
}
