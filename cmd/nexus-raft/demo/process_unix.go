//go:build unix && !linux

package demo

import (
	"os"
	"syscall"
)

// childAttributes gives the child a process group of its own, so that Ctrl-C reaches this
// process alone.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func interrupt(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
