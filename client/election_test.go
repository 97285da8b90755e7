package client

import (
	"errors"
	"fmt"
	"testing"
)

func TestElection(t *testing.T) {
	z := newFakeZone()
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	if l, err := c.ElectedLeader(within(t), []byte("boss")); err != nil || l.Token != 0 {
		t.Errorf("before: %+v, %v", l, err)
	}
	seen := make(chan string, 10)
	go func() {
		for l, err := range c.ElectedLeaders(within(t), []byte("boss")) {
			if err != nil {
				t.Error(err)
				break
			}
			seen <- fmt.Sprintf("%d %s", l.Token, l.Value)
			if string(l.Value) == "end" {
				break
			}
		}
		close(seen)
	}()
	sees := func(want string) {
		t.Helper()
		if got := <-seen; got != want {
			t.Errorf("the observer sees %q, want %q", got, want)
		}
	}
	sees("0 ")
	e, err := c.Campaign(within(t), []byte("boss"), []byte("ann"), lockTTL)
	if err != nil {
		t.Fatal(err)
	}
	sees("2 ann")
	if err := e.Proclaim(within(t), []byte("anna")); err != nil {
		t.Error(err)
	}
	sees("2 anna")
	next := make(chan *Elected)
	go func() {
		e, err := c.Campaign(within(t), []byte("boss"), []byte("bob"), lockTTL)
		if err != nil {
			t.Error(err)
		}
		next <- e
	}()
	z.awaitClaims(t, "boss", 2)
	if err := e.Resign(within(t)); err != nil {
		t.Error(err)
	}
	sees("4 bob")
	if err := e.Proclaim(within(t), nil); !errors.Is(err, ErrLost) {
		t.Errorf("a former leader proclaims: %v", err)
	}
	bob := <-next
	if bob == nil || bob.Token() != 4 {
		t.Fatalf("got %+v, want token 4", bob)
	}
	if err := bob.Proclaim(within(t), []byte("end")); err != nil {
		t.Error(err)
	}
	sees("4 end")
	if err := bob.Resign(within(t)); err != nil {
		t.Error(err)
	}
}
