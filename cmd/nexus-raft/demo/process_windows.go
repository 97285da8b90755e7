package demo

import (
	"errors"
	"os"
	"syscall"
)

// childAttributes gives the child a process group of its own, so that Ctrl-C reaches this
// process alone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// interrupt fails: no signal reaches a process that has no console.
func interrupt(*os.Process) error { return errors.ErrUnsupported }
