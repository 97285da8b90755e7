package kv

// leases checks that each lease has the row of its generation, each key with a lease the row that says so, and the
// other way round.
func (c *checker) leases() error {
	known := make(map[int64]int64) // the generation of each lease
	err := Leases(c.r, func(l Lease) error {
		known[l.ID] = l.Generation
		c.bytes += int64(len(leaseKey(l.ID)) + len(l.encode()))
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.generations(known); err != nil {
		return err
	}
	if err := c.attached(known); err != nil {
		return err
	}
	for key, id := range c.leased {
		c.fail("key %q is on lease %d, which does not have it", key, id)
	}
	return nil
}

func (c *checker) generations(known map[int64]int64) error {
	counts, err := LeaseStanding(c.r)
	if err != nil {
		return err
	}
	rows := 0
	for p, err := range c.r.Scan([]byte{prefixGeneration}, []byte{prefixGeneration + 1}) {
		if err != nil {
			return err
		}
		generation, id, err := decodeGeneration(p.Key, p.Value)
		if err != nil {
			return err
		}
		c.bytes += int64(len(p.Key) + len(p.Value))
		if rows++; known[id] != generation {
			c.fail("generation %d of lease %d, which has %d, 0 if it is not there", generation, id, known[id])
		}
		if generation > counts.Generation {
			c.fail("generation %d, the newest one is %d", generation, counts.Generation)
		}
	}
	if rows != len(known) || counts.Count != int64(len(known)) {
		c.fail("%d leases with %d generations, counted as %d", len(known), rows, counts.Count)
	}
	return nil
}

func (c *checker) attached(known map[int64]int64) error {
	for p, err := range c.r.Scan([]byte{prefixAttached}, []byte{prefixAttached + 1}) {
		if err != nil {
			return err
		}
		id, key, ok := splitAttachedKey(p.Key)
		if !ok || len(p.Value) > 0 {
			return errCorrupt("key of a lease % x", p.Key)
		}
		c.bytes += int64(len(p.Key))
		if known[id] == 0 {
			c.fail("key %q is on lease %d, which is not there", key, id)
		}
		if has := c.leased[string(key)]; has != id {
			c.fail("lease %d has key %q, which is on lease %d", id, key, has)
			continue
		}
		delete(c.leased, string(key))
	}
	return nil
}
