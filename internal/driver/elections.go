package driver

// Elections bounds how many of a worker's groups stand for election at once. When a node is lost that led thousands
// of zones, all their members would, in the same moment: the rounds of so many take longer than an election
// timeout, so each of them would begin anew, and none would get to its end.
//
// A follower is not ticked while there are as many candidates as there may be, so it waits for its turn; what is a
// candidate already is ticked, and a leader. Safety does not depend on it: raft is safe with any ticks.
// It is for the worker's goroutine.
type Elections struct {
	most  int
	under int // as of the tick under way, or the last one
}

// NewElections returns the bound of so many candidates.
func NewElections(most int) *Elections { return &Elections{most: most} }

// Begin begins a tick, with all groups that are awake. They are yielded, and may be ticked after it alone.
func (e *Elections) Begin(awake func(yield func(*Group) bool)) {
	e.under = 0
	for g := range awake {
		if g.replica.Electing() {
			e.under++
		}
	}
}

// Tick has a group ticked, unless it is to wait.
func (e *Elections) Tick(g *Group, tick func()) {
	electing := g.replica.Electing()
	if _, leads := g.replica.Leader(); !leads && !electing && e.under >= e.most {
		return
	}
	if tick(); !electing && g.replica.Electing() {
		e.under++
	}
}
