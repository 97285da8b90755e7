package netfault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a connection through a new proxy.
func pair(t *testing.T) (p *Proxy, client, server net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	p, err = New(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	client, err = p.Dial(t.Context(), "wherever")
	if err != nil {
		t.Fatal(err)
	}
	server, err = lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return p, client, server
}

// say writes to one end and expects it at the other.
func say(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	hear(t, to, text)
}

func hear(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read: got %q, %v, want %q", got, err, text)
	}
}

// silent checks that nothing comes, not even an end.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %d bytes, %v, want nothing", n, err)
	}
}

// broken checks that a connection ends.
func broken(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %d bytes, %v, want a broken connection", n, err)
	}
}

func TestProxyPassesEverythingInOrder(t *testing.T) {
	_, client, server := pair(t)
	random := rand.NewChaCha8([32]byte{1})
	want := make([]byte, 3<<20)
	random.Read(want)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, ends := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() { ends[0].Write(want) })
		wg.Go(func() {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got other bytes than were sent, %v", err)
			}
		})
	}
}

func TestCutBreaksBothEnds(t *testing.T) {
	p, client, server := pair(t)
	say(t, client, server, "hello")
	p.Cut()
	broken(t, client)
	broken(t, server)
	if _, err := p.Dial(t.Context(), ""); err != nil {
		t.Errorf("dial after a cut: %v", err)
	}
}

func TestAnEndPassesOn(t *testing.T) {
	_, client, server := pair(t)
	client.Close()
	broken(t, server)
}

func TestStallHoldsBackOneWay(t *testing.T) {
	p, client, server := pair(t)
	p.Stall(Up)
	io.WriteString(client, "later")
	silent(t, server)
	say(t, server, client, "the other way")
	p.Heal()
	hear(t, server, "later")
}

func TestStalledPathPushesBack(t *testing.T) {
	p, client, _ := pair(t)
	p.Stall(Up)
	_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := client.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d bytes, %v, want to be stopped by the deadline", n, err)
	}
}

func TestLoseIsForGoodAndOneWay(t *testing.T) {
	p, client, server := pair(t)
	p.Lose(Up)
	io.WriteString(client, "lost")
	silent(t, server)
	p.Heal()
	say(t, server, client, "the other way")
	client.Close()
	silent(t, server)
}

func TestRepeatSaysItAgain(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	p, err := New(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Keep()
	client, err := p.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	say(t, client, server, "hello")
	if err := p.Repeat(); err != nil {
		t.Fatal(err)
	}
	again, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	hear(t, again, "hello")
	io.WriteString(again, "the client hears nothing of this")
	say(t, server, client, "and goes on")
}

func TestDialThroughStalledPathHasNoAnswer(t *testing.T) {
	p, _, _ := pair(t)
	p.Stall(Down)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Dial(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's end", err)
	}
}

func TestDelayIsForEachWay(t *testing.T) {
	p, client, server := pair(t)
	const delay = 100 * time.Millisecond
	p.Delay(delay)
	begun := time.Now()
	say(t, client, server, "there")
	say(t, server, client, "and back")
	if took := time.Since(begun); took < 2*delay {
		t.Errorf("there and back took %v, want %v at least", took, 2*delay)
	}
}

func TestThrottleBoundsTheRate(t *testing.T) {
	p, client, server := pair(t)
	const rate, total = 1 << 20, 256 << 10
	p.Throttle(rate)
	begun := time.Now()
	go client.Write(make([]byte, total))
	if _, err := io.ReadFull(server, make([]byte, total)); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(begun), (total-pieceBytes)*time.Second/rate; took < least {
		t.Errorf("%d bytes took %v, want %v at least", total, took, least)
	}
}

func TestServerThatIsAwayResets(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	p, err := New(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	client, err := p.Dial(t.Context(), "")
	if err != nil {
		return // reset before Dial has returned
	}
	defer client.Close()
	broken(t, client)
}
