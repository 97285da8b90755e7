package kv

import (
	"bytes"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Check walks over all that a key space has and returns what contradicts the layout, as one error that is
// nexusraft.ErrCorrupt, or nil. It takes memory for each key and version, and is for tests and for who looks for the
// cause of something.
func Check(r nexusraft.Reader) error {
	m, err := loadMeta(r)
	if err != nil || m.layout == layoutNewest {
		return err
	}
	c := checker{r: r, meta: m, rows: make(map[string]record), values: make(map[string]int)}
	c.leased = make(map[string]int64)
	for _, step := range [...]func() error{c.newest, c.versions, c.changes, c.large, c.leases, c.sums} {
		if err := step(); err != nil {
			return err
		}
	}
	return errors.Join(c.wrong...)
}

// checker has what was read: versions by their place in v, those of k too.
type checker struct {
	r     nexusraft.Reader
	meta  meta
	wrong []error

	rows        map[string]record
	values      map[string]int   // what rows say of values that are elsewhere: their length
	leased      map[string]int64 // the leases of the newest versions that have one
	keys, bytes int64
}

func (c *checker) fail(format string, args ...any) {
	if len(c.wrong) < 20 {
		c.wrong = append(c.wrong, fmt.Errorf("kv: %s: %w", fmt.Sprintf(format, args...), nexusraft.ErrCorrupt))
	}
}

func (c *checker) add(key []byte, rec record, rowBytes int) {
	c.bytes += int64(rowBytes)
	k := string(versionKey(prefixVersion, key, rec.mod))
	if _, twice := c.rows[k]; twice {
		c.fail("key %q has two versions of revision %d", key, rec.mod)
	}
	c.rows[k] = rec
	if rec.elsewhere {
		c.values[string(versionKey(prefixValue, key, rec.mod))] = rec.length
	}
	if rec.mod > c.meta.revision || rec.end > c.meta.revision {
		c.fail("key %q has a version from %d to %d, the newest revision is %d", key, rec.mod, rec.end, c.meta.revision)
	}
}

func (c *checker) newest() error {
	return scanNewest(c.r, []byte{prefixKey}, []byte{prefixKey + 1}, false, func(key []byte, rec record) error {
		if rec.lease != 0 {
			c.leased[string(key)] = rec.lease
		}
		if rec.newest {
			if !c.meta.moving || bytes.Compare(key, c.meta.moved) < 0 {
				c.fail("key %q still has the form of the layout before", key)
			}
			if rec.mod > c.meta.compacted {
				c.fail("key %q of revision %d has no history", key, rec.mod)
			}
			return nil
		}
		c.keys++
		c.add(key, rec, 1+len(key)+rec.stored)
		return nil
	})
}

func (c *checker) versions() error {
	var last keyed
	for p, err := range c.r.Scan([]byte{prefixVersion}, []byte{prefixVersion + 1}) {
		if err != nil {
			return err
		}
		key, mod, ok := splitVersionKey(p.Key)
		if !ok {
			return errCorrupt("version % x", p.Key)
		}
		rec, err := decodeVersion(key, p.Value, true)
		if err != nil {
			return err
		}
		if rec.mod != mod {
			c.fail("version of key %q at %d says %d", key, mod, rec.mod)
		}
		if bytes.Equal(last.key, key) && last.rec.end > rec.mod {
			c.fail("versions of key %q overlap: %d to %d, and %d", key, last.rec.mod, last.rec.end, rec.mod)
		}
		c.add(key, rec, len(p.Key)+rec.stored)
		last = keyed{key, rec}
	}
	return nil
}

func (c *checker) changes() error {
	named := make(map[string]int64) // versions, by the change that has superseded them
	made := make(map[string]bool)
	for p, err := range c.r.Scan([]byte{prefixChange}, []byte{prefixChange + 1}) {
		if err != nil {
			return err
		}
		at, ch, err := decodeChange(p.Key, p.Value)
		if err != nil {
			return err
		}
		c.bytes += int64(len(p.Key) + len(p.Value))
		if at.rev < c.meta.compacted && at.before(c.meta.swept) {
			c.fail("change %d.%d was swept", at.rev, at.sub)
		}
		if k := string(versionKey(prefixVersion, ch.key, at.rev)); !ch.deleted {
			made[k] = true
			if rec, kept := c.rows[k]; kept && rec.sub != int64(at.sub) {
				c.fail("version %d of key %q says that change %d has made it, and not %d", at.rev, ch.key, rec.sub, at.sub)
			}
		}
		c.change(at, ch, named)
	}
	for k, rec := range c.rows {
		key, _, _ := splitVersionKey([]byte(k))
		if rec.end != 0 && named[k] != rec.end {
			c.fail("version %d to %d of key %q: no change has superseded it", rec.mod, rec.end, key)
		}
		if rec.mod > c.meta.compacted && !made[k] {
			c.fail("version %d of key %q: no change has made it", rec.mod, key)
		}
	}
	return nil
}

// change checks what a change says of the version that it has superseded.
func (c *checker) change(at position, ch change, named map[string]int64) {
	if ch.prev == 0 {
		return
	}
	k := versionKey(prefixVersion, ch.key, ch.prev)
	rec, kept := c.rows[string(k)]
	gone := at.rev <= c.meta.compacted && (at.before(c.meta.swept) || at.before(c.meta.cleared))
	switch {
	case gone && kept && rec.end != 0:
		c.fail("version %d of key %q should have been swept with change %d.%d", ch.prev, ch.key, at.rev, at.sub)
	case gone:
	case !kept || rec.end != at.rev:
		c.fail("change %d.%d of key %q supersedes version %d, which is not there, or ends at %d", at.rev, at.sub, ch.key,
			ch.prev, rec.end)
	default:
		named[string(k)] = at.rev
		takes := int64(len(k) + rec.stored)
		if rec.elsewhere {
			takes += int64(len(k) + rec.length)
		}
		if takes != ch.prevBytes || rec.elsewhere != ch.elsewhere {
			c.fail("change %d.%d of key %q supersedes %d bytes, and says %d", at.rev, at.sub, ch.key, takes, ch.prevBytes)
		}
	}
}

func (c *checker) large() error {
	for p, err := range c.r.Scan([]byte{prefixValue}, []byte{prefixValue + 1}) {
		if err != nil {
			return err
		}
		c.bytes += int64(len(p.Key) + len(p.Value))
		length, named := c.values[string(p.Key)]
		if !named || length != len(p.Value) {
			c.fail("value % x of %d bytes belongs to no version, or to one of %d bytes", p.Key, len(p.Value), length)
		}
		delete(c.values, string(p.Key))
	}
	for k := range c.values {
		c.fail("value % x is missing", k)
	}
	return nil
}

func (c *checker) sums() error {
	if c.keys != c.meta.keys || c.bytes != c.meta.bytes {
		c.fail("%d keys and %d bytes, counted as %d and %d", c.keys, c.bytes, c.meta.keys, c.meta.bytes)
	}
	return nil
}
