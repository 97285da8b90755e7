package driver

// Active has the groups of a worker that may have work, so that a turn costs nothing for those that
// have none. Whatever gives a group work adds it: a message, a call, a proposal, a tick. The zero value
// is ready; it is for the worker's goroutine.
type Active struct {
	groups []*Group // each once: Group.active
	spare  []*Group // empty; kept for its memory
}

// Add has the next turn ask the group for its work.
func (a *Active) Add(g *Group) {
	if !g.active {
		g.active = true
		a.groups = append(a.groups, g)
	}
}

// Turn has d make a round of every active group that has work, in the order in which they were added,
// and reports whether any has more: those stay active. Errors are those of Driver.Turn. done, if not
// nil, is called for each of the groups afterwards.
func (a *Active) Turn(d *Driver, done func(*Group)) (busy bool, err error) {
	groups := a.groups
	a.groups = a.spare[:0] // for those that are added meanwhile
	if _, err = d.Turn(groups); err != nil {
		return false, err
	}
	for _, g := range groups {
		if done != nil {
			done(g)
		}
		if g.active = g.HasWork(); g.active {
			a.groups = append(a.groups, g)
		}
	}
	clear(groups)
	a.spare = groups
	return len(a.groups) > 0, nil
}
