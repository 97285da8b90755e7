package main

import (
	"errors"
	"testing"

	"github.com/nexi-lab/nexus-raft/internal/program"
)

func TestErrorTextOfOthers(t *testing.T) {
	got := program.ErrorText(errors.New("join: \x1b[2Jrefused\ndo: nexus-raft member remove n1"))
	if want := `join: \x1b[2Jrefused` + "\n  do: nexus-raft member remove n1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
