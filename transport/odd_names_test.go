package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// What a joiner says of itself becomes a record that every node keeps and people look at.
func TestJoinerWithAnOddNameOrAddress(t *testing.T) {
	asked := 0
	addr, _ := serve(t, identityA, &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) {
		asked++
		return JoinResult{}, nexusraft.ErrRefused
	}})
	conn := dialTest(t, addr)
	for what, change := range map[string]func(*pb.Hello){
		"an address with escapes":      func(h *pb.Hello) { h.Address = "\x1b[2Jevil:1" },
		"an address with a line":       func(h *pb.Hello) { h.Address = "b:1\ndo: nexus-raft member remove a" },
		"an address with a zone":       func(h *pb.Hello) { h.Address = "[fe80::1%eth0]:2026" },
		"an address without a port":    func(h *pb.Hello) { h.Address = "b" },
		"an address with port 0":       func(h *pb.Hello) { h.Address = "b:0" },
		"an address that is a URL":     func(h *pb.Hello) { h.Address = "http://b:1" },
		"an address that turns around": func(h *pb.Hello) { h.Address = "b\u202e:1" },
		"no address":                   func(h *pb.Hello) { h.Address = "" },
		"a long address":               func(h *pb.Hello) { h.Address = strings.Repeat("b", 300) + ":1" },
		"a name with escapes":          func(h *pb.Hello) { h.Name = "\x1b]0;x\a" },
		"a name with a line":           func(h *pb.Hello) { h.Name = "b\nLEADER" },
		"a name with a C1 control":     func(h *pb.Hello) { h.Name = "b\u009b2J" },
		"a name that begins so":        func(h *pb.Hello) { h.Name = " b" },
		"a long name":                  func(h *pb.Hello) { h.Name = strings.Repeat("b", 65) },
	} {
		h := hello(joiner(), 0)
		change(h)
		err := join(t.Context(), conn, h)
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "handshake") ||
			nexusraft.PrintableText(err.Error()) != err.Error() {
			t.Errorf("%s: got %q, want a refusal that can be printed", what, err)
		}
	}
	if asked > 0 {
		t.Errorf("%d were let through", asked)
	}
}

// A node of the cluster may have moved: what it says then is looked at, too, but for what never
// mattered, that others can dial it.
func TestPeerWithAnOddAddress(t *testing.T) {
	addr, _ := serve(t, identityA, votes(&fakeNode{}))
	conn := dialTest(t, addr)
	for address, passes := range map[string]bool{
		"b:1": true, "[fe80::1%eth0]:2026": true, "b:1\x1b[2J": false,
		"b:1\ndo: x": false,
	} {
		h := hello(identityB, nodeA)
		h.Address = address
		if err := asRefusal(calls["RequestVote"](t.Context(), conn, h)); (err == nil) != passes {
			t.Errorf("%q: got %v, want it to pass: %t", address, err, passes)
		}
	}
}

// An endpoint is dialled as it is written, whatever it would mean in a URL.
func TestEndpointIsDialledAsWritten(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{
		"[fe80::1%eth0]:2026", "[fe80::1%25eth0]:2026", "loc%61lhost:2026", "100%:1",
		"n1:2026", "[::1]:1",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var mu sync.Mutex
		var dialled string
		pool := NewClientPool(as(identityB), PoolOptions{Dialer: func(_ context.Context, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialled = addr
			cancel() // that is all that the test waits for
			return nil, errors.New("nobody is there")
		}})
		_, err := pool.Get(ctx, NodeAddress{Endpoint: endpoint})
		cancel()
		pool.Close()
		mu.Lock()
		if dialled != endpoint {
			t.Errorf("%s: %q was dialled, %v", endpoint, dialled, err)
		}
		mu.Unlock()
	}
}
