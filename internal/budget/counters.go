package budget

import (
	"maps"
	"sync/atomic"
)

// Cause is why a caller was refused something. Its text is the label of a metric: it never
// changes once it was released.
type Cause int

// The causes. New ones go at the end; each has its text in causeTexts.
const (
	AnswerBytes            Cause = iota // bytes of all answers under way
	AnswerBytesOfPrincipal              // bytes of one principal's answers under way

	Handshakes             // connections whose handshake was not done, given up for newer ones, or refused
	Connections            // connections of all together
	ConnectionsOfPrincipal // connections of one principal or, without TLS, one address
	AnonymousConnections   // connections of anonymous callers, of one address or all
	IdleConnections        // connections without a call that gave way to others
	StreamsOfCaller        // calls under way of one principal or address
	AnonymousStreams       // calls of anonymous callers at a time
	Headers                // bytes of headers of calls under way
	Unknown                // calls of anonymous callers that need to be known
	SlowRequests           // requests that took too long to arrive
	RequestBytesOverall    // bytes of requests that are not whole
	SlowReaders            // connections that took no answers
	SubscriptionsRefused   // subscriptions of one principal or all
	EffectBytes            // bytes that writes under way may make of what is there, of all
	EffectBytesOfPrincipal // the same of one principal

	causeCount
)

var causeTexts = [causeCount]string{
	AnswerBytes:            "answer_bytes",
	AnswerBytesOfPrincipal: "answer_bytes_of_principal",
	Handshakes:             "handshakes",
	Connections:            "connections",
	ConnectionsOfPrincipal: "connections_of_principal",
	AnonymousConnections:   "stranger_connections",
	IdleConnections:        "idle_connections",
	StreamsOfCaller:        "streams_of_principal",
	AnonymousStreams:       "stranger_streams",
	Headers:                "header_bytes",
	Unknown:                "unknown_callers",
	SlowRequests:           "slow_requests",
	RequestBytesOverall:    "request_bytes",
	SlowReaders:            "slow_readers",
	SubscriptionsRefused:   "subscriptions",
	EffectBytes:            "effect_bytes",
	EffectBytesOfPrincipal: "effect_bytes_of_principal",
}

// String returns the text of a cause.
func (c Cause) String() string {
	if c < 0 || c >= causeCount {
		return "unknown"
	}
	return causeTexts[c]
}

// Counters count refusals by cause. The zero value counts from zero; the methods may be called
// from any goroutine. A node and a witness have one each, for all servers of the process.
type Counters struct {
	refused [causeCount]atomic.Uint64
}

// Refused counts one refusal.
func (c *Counters) Refused(cause Cause) { c.refused[cause].Add(1) }

// Count returns how often something was refused for a cause.
func (c *Counters) Count(cause Cause) uint64 { return c.refused[cause].Load() }

// Refusals returns the counts that are above 0 by the text of their cause.
func (c *Counters) Refusals() map[string]uint64 {
	all := c.Snapshot()
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}

// Snapshot returns all counts by the text of their cause, those that are 0 included: the names
// of a metric are there before the first refusal.
func (c *Counters) Snapshot() map[string]uint64 {
	all := make(map[string]uint64, causeCount)
	for cause := range causeCount {
		all[cause.String()] = c.refused[cause].Load()
	}
	return all
}
