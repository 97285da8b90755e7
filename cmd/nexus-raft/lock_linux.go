package main

import "syscall"

// childAttributes let a command that lock runs end with it.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
