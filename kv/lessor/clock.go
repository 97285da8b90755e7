package lessor

import "time"

// clock is a lessor's: the time since its start in which the lessor was running. It never goes faster than time does. A
// process that was stopped, or whose disk stood still, could renew nothing, so that time does not count.
type clock struct {
	elapsed func() time.Duration // by the monotonic clock
	most    time.Duration        // between two ticks; the rest of a longer gap does not count, but for a step
	step    time.Duration        // between two ticks as they are meant to be

	last    time.Duration // tick
	skipped time.Duration // what did not count
}

// now returns the time.
func (c *clock) now() time.Duration {
	at := c.elapsed()
	if at-c.last > c.most {
		at = c.last + c.step // as the next tick will find
	}
	return at - c.skipped
}

// tick says that the lessor is running.
func (c *clock) tick() {
	at := c.elapsed()
	if gap := at - c.last; gap > c.most {
		c.skipped += gap - c.step
	}
	c.last = at
}
