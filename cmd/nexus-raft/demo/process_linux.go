package demo

import (
	"os"
	"syscall"
)

// childAttributes gives the child a process group of its own, so that Ctrl-C reaches this
// process alone, and has the kernel kill it if this process ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func interrupt(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
