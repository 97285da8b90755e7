package client

import (
	"bytes"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// KeySet is the keys that a part of a transaction is about. It borrows the slices that it is made of.
type KeySet struct{ key, end []byte } // etcd's key and range_end

// Key is one key.
func Key(key []byte) KeySet { return KeySet{key: key} }

// Prefix is all keys that begin with prefix; an empty one means all keys.
func Prefix(prefix []byte) KeySet {
	key, end := prefixRange(prefix)
	return KeySet{key, end}
}

// FromKey is key and all keys after it.
func FromKey(key []byte) KeySet {
	if len(key) == 0 {
		return Prefix(nil)
	}
	return KeySet{key, []byte{0}}
}

// KeyRange is from and all keys after it, up to end and without it; none if end is not after from.
func KeyRange(from, end []byte) KeySet {
	if len(from) == 0 {
		from = []byte{0} // no key is before it
	}
	if bytes.Compare(end, from) <= 0 {
		return KeySet{[]byte{1}, []byte{1}}
	}
	return KeySet{from, end}
}

// A Relation is how what is found has to be to what a compare names.
type Relation int

// The relations. Bytes are ordered as keys are.
const (
	Equal Relation = iota
	NotEqual
	Less
	Greater
)

// Compare is a condition of a transaction, on a key or on each key of several. A key that is absent has the version 0,
// and as revisions and lease 0, too, and no condition on its value holds, NotEqual neither. Several keys of
// which none is there are as one that is absent.
type Compare struct{ compare *etcdserverpb.Compare } // nil in the zero value, which no node takes

// Exists holds if all of the keys are there, and at least one.
func (k KeySet) Exists() Compare { return k.Version(NotEqual, 0) }

// Absent holds if none of the keys is there.
func (k KeySet) Absent() Compare { return k.Version(Equal, 0) }

// Value compares values; it borrows value.
func (k KeySet) Value(is Relation, value []byte) Compare {
	return k.compare(etcdserverpb.Compare_VALUE, is, func(c *etcdserverpb.Compare) {
		c.TargetUnion = &etcdserverpb.Compare_Value{Value: value}
	})
}

// Version compares how often a key was put since it was created.
func (k KeySet) Version(is Relation, version int64) Compare {
	return k.compare(etcdserverpb.Compare_VERSION, is, func(c *etcdserverpb.Compare) {
		c.TargetUnion = &etcdserverpb.Compare_Version{Version: version}
	})
}

// Created compares KeyValue.CreateRevision.
func (k KeySet) Created(is Relation, rev nexusraft.Revision) Compare {
	return k.compare(etcdserverpb.Compare_CREATE, is, func(c *etcdserverpb.Compare) {
		c.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: wireRevision(rev)}
	})
}

// Modified compares KeyValue.ModRevision.
func (k KeySet) Modified(is Relation, rev nexusraft.Revision) Compare {
	return k.compare(etcdserverpb.Compare_MOD, is, func(c *etcdserverpb.Compare) {
		c.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: wireRevision(rev)}
	})
}

// Lease compares the ID of the lease that a key hangs on, 0 if there is none.
func (k KeySet) Lease(is Relation, lease LeaseID) Compare {
	return k.compare(etcdserverpb.Compare_LEASE, is, func(c *etcdserverpb.Compare) {
		c.TargetUnion = &etcdserverpb.Compare_Lease{Lease: int64(lease)}
	})
}

func (k KeySet) compare(
	target etcdserverpb.Compare_CompareTarget, is Relation, to func(*etcdserverpb.Compare),
) Compare {
	c := &etcdserverpb.Compare{Key: k.key, RangeEnd: k.end, Target: target}
	switch is {
	case NotEqual:
		c.Result = etcdserverpb.Compare_NOT_EQUAL
	case Less:
		c.Result = etcdserverpb.Compare_LESS
	case Greater:
		c.Result = etcdserverpb.Compare_GREATER
	default:
		c.Result = etcdserverpb.Compare_EQUAL
	}
	to(c)
	return Compare{c}
}

func (c Compare) proto() *etcdserverpb.Compare {
	if c.compare == nil {
		return &etcdserverpb.Compare{}
	}
	return c.compare
}
