package budget

import "sync"

// Limit bounds a quantity for each key and for all keys together. The methods may be called from
// any goroutine.
type Limit struct {
	each, all int64

	mu  sync.Mutex // guards what follows
	now int64
	of  map[string]int64 // none is 0
}

// NewLimit returns a limit of which nothing is taken.
func NewLimit(each, all int64) *Limit {
	return &Limit{each: each, all: all, of: make(map[string]int64)}
}

// Enter takes n for a key if there is room; then Leave must follow.
func (l *Limit) Enter(key string, n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[key]+n > l.each || l.now+n > l.all {
		return false
	}
	l.of[key] += n
	l.now += n
	return true
}

// Leave gives n back.
func (l *Limit) Leave(key string, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now -= n
	if l.of[key] -= n; l.of[key] == 0 {
		delete(l.of, key)
	}
}

// Now returns how much is taken by all keys.
func (l *Limit) Now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}
