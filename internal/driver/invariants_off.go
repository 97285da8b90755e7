//go:build !invariants

package driver

const invariants = false
