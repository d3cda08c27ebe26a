package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// ErrStop, returned by the function given to Each or Back, ends the walk without an error.
var ErrStop = errors.New("stop")

// Table is a named collection of V, ordered by key. V is stored as JSON behind
// a checksum over the table's name, the key and the value, so that a record
// that was damaged or moved is found when it is read. The zero record of a
// table that was never written is an empty table.
type Table[V any] struct{ Name string }

// checksumLen is eight hexadecimal digits and a space: a record stays readable in a dump.
const checksumLen = 9

// Key is the key of a record made by Append: zero-padded, so that order by key is order by number.
func Key(sequence uint64) string { return fmt.Sprintf("%020d", sequence) }

// Get reads one record; the second result says whether there is one.
func (t Table[V]) Get(tx *Tx, key string) (V, bool, error) {
	var v V
	b := tx.bolt.Bucket([]byte(t.Name))
	if b == nil {
		return v, false, nil
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return v, false, nil
	}
	err := t.decode([]byte(key), raw, &v)
	return v, err == nil, err
}

// Put writes one record, replacing what was there. The key must not be empty.
func (t Table[V]) Put(tx *Tx, key string, v V) error {
	b, err := tx.bolt.CreateBucketIfNotExists([]byte(t.Name))
	if err != nil {
		return fmt.Errorf("cannot write table %s: %w", t.Name, err)
	}
	raw, err := encodeRecord(t.Name, key, v)
	if err != nil {
		return err
	}
	if err := b.Put([]byte(key), raw); err != nil {
		return fmt.Errorf("cannot write %s/%s: %w", t.Name, key, err)
	}
	return nil
}

// Delete removes one record; a record that is not there is no error.
func (t Table[V]) Delete(tx *Tx, key string) error {
	b := tx.bolt.Bucket([]byte(t.Name))
	if b == nil {
		return nil
	}
	if err := b.Delete([]byte(key)); err != nil {
		return fmt.Errorf("cannot delete %s/%s: %w", t.Name, key, err)
	}
	return nil
}

// Append writes v under the table's next number, which is never used twice
// even when the record is deleted.
func (t Table[V]) Append(tx *Tx, v V) (uint64, error) {
	b, err := tx.bolt.CreateBucketIfNotExists([]byte(t.Name))
	if err != nil {
		return 0, fmt.Errorf("cannot write table %s: %w", t.Name, err)
	}
	n, err := b.NextSequence()
	if err != nil {
		return 0, fmt.Errorf("cannot number a record of %s: %w", t.Name, err)
	}
	return n, t.Put(tx, Key(n), v)
}

// Each calls fn for every record whose key begins with prefix, in order. fn
// must not change the table; ErrStop from fn ends the walk.
func (t Table[V]) Each(tx *Tx, prefix string, fn func(key string, v V) error) error {
	b := tx.bolt.Bucket([]byte(t.Name))
	if b == nil {
		return nil
	}
	c, p := b.Cursor(), []byte(prefix)
	for k, raw := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, raw = c.Next() {
		if err := t.visit(k, raw, fn); err != nil {
			return ignoreStop(err)
		}
	}
	return nil
}

// Back calls fn for every record from the last to the first, under the rules of Each.
func (t Table[V]) Back(tx *Tx, fn func(key string, v V) error) error {
	b := tx.bolt.Bucket([]byte(t.Name))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, raw := c.Last(); k != nil; k, raw = c.Prev() {
		if err := t.visit(k, raw, fn); err != nil {
			return ignoreStop(err)
		}
	}
	return nil
}

// Last reads the record with the greatest key; false when the table is empty.
func (t Table[V]) Last(tx *Tx) (key string, v V, ok bool, err error) {
	err = t.Back(tx, func(k string, last V) error {
		key, v, ok = k, last, true
		return ErrStop
	})
	return key, v, ok, err
}

// Trim deletes the records with the smallest keys until at most keep are left.
func (t Table[V]) Trim(tx *Tx, keep int) error {
	b := tx.bolt.Bucket([]byte(t.Name))
	if b == nil {
		return nil
	}
	var old [][]byte
	c, seen := b.Cursor(), 0
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		if seen++; seen > keep {
			old = append(old, bytes.Clone(k))
		}
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return fmt.Errorf("cannot delete %s/%s: %w", t.Name, k, err)
		}
	}
	return nil
}

func (t Table[V]) visit(k, raw []byte, fn func(string, V) error) error {
	var v V
	if err := t.decode(k, raw, &v); err != nil {
		return err
	}
	return fn(string(k), v)
}

func (t Table[V]) decode(key, raw []byte, v *V) error {
	body, err := openRecord(t.Name, key, raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("cannot read %s/%s: %w", t.Name, key, err)
	}
	return nil
}

func ignoreStop(err error) error {
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

func encodeRecord(table, key string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s/%s: %w", table, key, err)
	}
	return fmt.Appendf(nil, "%08x %s", recordSum(table, []byte(key), body), body), nil
}

// openRecord answers the JSON of a stored record, or ErrDamaged.
func openRecord(table string, key, raw []byte) ([]byte, error) {
	if len(raw) < checksumLen {
		return nil, fmt.Errorf("%w: record %s/%q is %d bytes long", ErrDamaged, table, key, len(raw))
	}
	body := raw[checksumLen:]
	if want := fmt.Sprintf("%08x ", recordSum(table, key, body)); string(raw[:checksumLen]) != want {
		return nil, fmt.Errorf("%w: record %s/%q does not match its checksum", ErrDamaged, table, key)
	}
	return body, nil
}

func recordSum(table string, key, body []byte) uint32 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, castagnoli, []byte(table))
	// A zero byte apart, so that a name and a key cannot trade letters.
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return crc32.Update(sum, castagnoli, body)
}

// eachRecord calls fn with every record of every table as it is stored.
func eachRecord(tx *bolt.Tx, fn func(table string, key, raw []byte) error) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		return b.ForEach(func(k, raw []byte) error {
			return fn(string(name), k, raw)
		})
	})
}
