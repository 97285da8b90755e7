// Package events serves events to subscribers: a zone's, which are replicated (internal/system keeps
// them), and a node's own, which it keeps here, in memory.
//
// A subscription holds no place in a queue: it knows only where it is, reads a batch from there, hands
// it to its subscriber, which may take any time over it, and waits for news when there is no more.
// So nothing piles up behind a slow subscriber; it may find that events are gone.
package events
