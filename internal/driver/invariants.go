//go:build invariants

package driver

// invariants has each group checked after each turn.
const invariants = true
