package trust

import (
	"encoding/json"
	"fmt"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
)

// vault keeps verified bytes in the database. What is read back from it is
// verified again before it counts; only the settled want is taken as it is.
type vault struct{ db *store.DB }

// settled is the last want that both repositories agreed on.
type settled struct {
	Enrolment string       `json:"enrolment"`
	Want      release.Want `json:"want"`
}

func metadataTable() store.Table[[]byte] { return store.Table[[]byte]{Name: "trust_metadata"} }
func documentTable() store.Table[[]byte] { return store.Table[[]byte]{Name: "trust_documents"} }
func wantTable() store.Table[settled]    { return store.Table[settled]{Name: "trust_want"} }
func marksTable() store.Table[json.RawMessage] {
	return store.Table[json.RawMessage]{Name: "trust_marks"}
}

// Keys of the one row of a table that has one.
const onlyRow = "current"

func rootKey(repo Repo, version int64) string { return fmt.Sprintf("%s/root/%010d", repo, version) }

func (v vault) metadata(key string) ([]byte, bool, error) {
	return load(v.db, metadataTable(), key)
}

func (v vault) putMetadata(key string, raw []byte) error {
	return put(v.db, metadataTable(), key, raw)
}

// roles returns the stored bytes of every role of a repository but its roots.
func (v vault) roles(repo Repo) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := v.db.View(func(tx *store.Tx) error {
		return metadataTable().Each(tx, roleKey(repo, ""), func(key string, raw []byte) error {
			// The slash after "root" in a root's key is none that roleKey writes.
			if role, ours := roleOf(repo, key); ours && roleKey(repo, role) == key {
				all[role] = raw
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot load the roles of %s: %w", repo, err)
	}
	return all, nil
}

func (v vault) document(digest string) ([]byte, bool, error) {
	return load(v.db, documentTable(), digest)
}

func (v vault) putDocument(digest string, raw []byte) error {
	return put(v.db, documentTable(), digest, raw)
}

func (v vault) want() (settled, bool, error) { return load(v.db, wantTable(), onlyRow) }

// settle stores the want and forgets the documents that it does not name.
func (v vault) settle(s settled, digests map[string]bool) error {
	err := v.db.Update(func(tx *store.Tx) error {
		var old []string
		err := documentTable().Each(tx, "", func(key string, _ []byte) error {
			if !digests[key] {
				old = append(old, key)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range old {
			if err := documentTable().Delete(tx, key); err != nil {
				return err
			}
		}
		return wantTable().Put(tx, onlyRow, s)
	})
	if err != nil {
		return fmt.Errorf("cannot store the verified set: %w", err)
	}
	return nil
}

func (v vault) marks() ([]byte, error) {
	raw, _, err := load(v.db, marksTable(), onlyRow)
	return raw, err
}

// putMarks stores the marks and, unless key is empty, what raised them.
func (v vault) putMarks(raw []byte, key string, metadata []byte) error {
	err := v.db.Update(func(tx *store.Tx) error {
		if key != "" {
			if err := metadataTable().Put(tx, key, metadata); err != nil {
				return err
			}
		}
		return marksTable().Put(tx, onlyRow, raw)
	})
	if err != nil {
		return fmt.Errorf("cannot store verified metadata: %w", err)
	}
	return nil
}

func load[V any](db *store.DB, table store.Table[V], key string) (value V, ok bool, err error) {
	err = db.View(func(tx *store.Tx) error {
		value, ok, err = table.Get(tx, key)
		return err
	})
	if err != nil {
		return value, false, fmt.Errorf("cannot load %s %s: %w", table.Name, key, err)
	}
	return value, ok, nil
}

func put[V any](db *store.DB, table store.Table[V], key string, value V) error {
	err := db.Update(func(tx *store.Tx) error { return table.Put(tx, key, value) })
	if err != nil {
		return fmt.Errorf("cannot store %s %s: %w", table.Name, key, err)
	}
	return nil
}
