// Package budget says how much of a node callers may use: connections, streams, bytes and
// descriptors, for one address, for one principal and for all together. The figures are
// constants with their reasons; docs/budgets.md repeats them, and a test compares the two.
//
//   - bytes.go: a budget of bytes with a share for each principal; answer.go: what one answer holds.
//   - descriptor_shares.go: how a process's descriptors are divided.
//   - counters.go: how often something was refused, by cause.
//
// The package knows neither gRPC nor TLS: its users say which address and which principal they
// mean, and what happens to a caller that is refused.
package budget
