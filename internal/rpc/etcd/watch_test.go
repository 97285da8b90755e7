package etcd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// testWatch is a stream of watches on a fake zone.
type testWatch struct {
	t      testing.TB
	zone   *fakeZone
	stream grpc.BidiStreamingClient[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]
	end    context.CancelFunc
}

func watching(t testing.TB, z *fakeZone) *testWatch { return watchingWith(t, z, Config{}) }

func watchingWith(t testing.TB, z *fakeZone, c Config, headers ...string) *testWatch {
	t.Helper()
	conn := serveConfig(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, c)
	return openWatch(t, z, conn, headers...)
}

func openWatch(t testing.TB, z *fakeZone, conn *grpc.ClientConn, headers ...string) *testWatch {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), headers...), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &testWatch{t, z, stream, cancel}
}

func (w *testWatch) send(req *etcdserverpb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(req); err != nil {
		w.t.Fatal(err)
	}
}

// ask asks for a watch, which created answers.
func (w *testWatch) ask(req *etcdserverpb.WatchCreateRequest) {
	w.t.Helper()
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: req}})
}

// create returns the answer to a request for a watch, which is the next one.
func (w *testWatch) create(req *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchResponse {
	w.t.Helper()
	w.ask(req)
	resp := w.recv()
	if !resp.Created {
		w.t.Fatalf("instead of created: %v", resp)
	}
	return resp
}

func (w *testWatch) cancel(id int64) {
	w.t.Helper()
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{
		CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: id},
	}})
}

func (w *testWatch) askProgress() {
	w.t.Helper()
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
		ProgressRequest: &etcdserverpb.WatchProgressRequest{},
	}})
}

func (w *testWatch) recv() *etcdserverpb.WatchResponse {
	w.t.Helper()
	resp, err := w.stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	h := resp.Header
	if h.GetClusterId() != 0xC1 || h.GetMemberId() != 0xD1 || h.GetRaftTerm() != 7 || h.GetRevision() < 1 {
		w.t.Fatalf("header %v", h)
	}
	return resp
}

// synced returns all answers up to the one to a request for progress, and the revision of that.
func (w *testWatch) synced() (answers []*etcdserverpb.WatchResponse, rev int64) {
	w.t.Helper()
	w.askProgress()
	for {
		resp := w.recv()
		if resp.WatchId == -1 && !resp.Created {
			if len(resp.Events) > 0 || resp.Canceled {
				w.t.Fatalf("progress with more: %v", resp)
			}
			return answers, resp.Header.Revision
		}
		answers = append(answers, resp)
	}
}

// events returns the next events of all watches up to the answer to a request for progress, as text.
func (w *testWatch) events() (got []string) {
	w.t.Helper()
	answers, _ := w.synced()
	for _, resp := range answers {
		for _, e := range resp.Events {
			got = append(got, text(resp.WatchId, e))
		}
	}
	return got
}

func text(id int64, e *mvccpb.Event) string {
	s := fmt.Sprintf("%d: %s %s@%d=%s", id, e.Type, e.Kv.Key, e.Kv.ModRevision, e.Kv.Value)
	if e.PrevKv != nil {
		s += fmt.Sprintf(" was %s@%d", e.PrevKv.Value, e.PrevKv.ModRevision)
	}
	return s
}

func (w *testWatch) want(want ...string) {
	w.t.Helper()
	if got := w.events(); !slices.Equal(got, want) {
		w.t.Fatalf("got %q\nwant %q", got, want)
	}
}

func (z *fakeZone) delete(t testing.TB, key, end string) {
	t.Helper()
	command, err := kv.EncodeDeleteRange(&etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	z.apply(t, command, err)
}

// sweep compacts, and removes what is compacted.
func (z *fakeZone) sweep(t testing.TB, rev int64) {
	t.Helper()
	z.compact(t, rev)
	z.apply(t, kv.EncodeSweep(1000), nil)
}

// putAll puts pairs as one revision.
func (z *fakeZone) putAll(t testing.TB, keys int, value string) {
	t.Helper()
	req := new(etcdserverpb.TxnRequest)
	for i := range keys {
		req.Success = append(req.Success, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
			RequestPut: &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%03d", i), Value: []byte(value)},
		}})
	}
	command, err := kv.EncodeTxn(req, 1000)
	z.apply(t, command, err)
}

func all() *etcdserverpb.WatchCreateRequest {
	return &etcdserverpb.WatchCreateRequest{RangeEnd: []byte{0}}
}

func from(rev int64) *etcdserverpb.WatchCreateRequest {
	return &etcdserverpb.WatchCreateRequest{RangeEnd: []byte{0}, StartRevision: rev}
}

// A watch has exactly what comes after the revision of created, or all from where it is to start.
func TestWatch(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	w := watching(t, z)
	if h := w.create(all()).Header.Revision; h != 2 {
		t.Fatalf("created at %d", h)
	}
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, PrevKv: true})
	w.want("1: PUT a@2=1")
	z.put(t, "a", "2")
	z.delete(t, "a", "")
	z.put(t, "b", "3")
	var got [2][]string
	for _, e := range w.events() {
		i := e[0] - '0'
		got[i] = append(got[i], e)
	}
	if want := []string{"0: PUT a@3=2", "0: DELETE a@4=", "0: PUT b@5=3"}; !slices.Equal(got[0], want) {
		t.Errorf("all: %q", got[0])
	}
	if want := []string{"1: PUT a@3=2 was 1@2", "1: DELETE a@4= was 2@3"}; !slices.Equal(got[1], want) {
		t.Errorf("a: %q", got[1])
	}
}

// What a watch asks for wrongly it is told in etcd's words, and the stream goes on.
func TestWatchRefused(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: 7})
	for _, c := range []struct {
		req  *etcdserverpb.WatchCreateRequest
		want string
	}{
		{
			&etcdserverpb.WatchCreateRequest{Key: []byte("b"), WatchId: 7},
			"mvcc: duplicate watch ID provided on the WatchStream",
		},
		{&etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, "mvcc: watcher range is empty"},
		{&etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, "mvcc: watcher range is empty"},
		{from(-1), "etcdserver: mvcc: required revision has been compacted"},
	} {
		resp := w.create(c.req)
		if !resp.Canceled || resp.WatchId != -1 || resp.CancelReason != c.want {
			t.Errorf("%v: %v", c.req, resp)
		}
	}
	z.put(t, "a", "1")
	w.want("7: PUT a@2=1")
}

// IDs count from 0, past those in use, and none is given again.
func TestWatchIDs(t *testing.T) {
	w := watching(t, newZone())
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: 1})
	for _, want := range []int64{0, 2, 3} {
		if id := w.create(all()).WatchId; id != want {
			t.Errorf("got ID %d, want %d", id, want)
		}
	}
	w.cancel(3)
	if resp := w.recv(); !resp.Canceled || resp.WatchId != 3 {
		t.Error(resp)
	}
	if id := w.create(all()).WatchId; id != 4 {
		t.Errorf("got ID %d after 3 was cancelled", id)
	}
}

// Filters leave out kinds of events; an answer that they empty is not sent.
func TestWatchFilters(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	noPut, noDelete := all(), all()
	noPut.Filters = []etcdserverpb.WatchCreateRequest_FilterType{etcdserverpb.WatchCreateRequest_NOPUT}
	noDelete.Filters = []etcdserverpb.WatchCreateRequest_FilterType{etcdserverpb.WatchCreateRequest_NODELETE}
	w.create(noPut)
	w.create(noDelete)
	z.put(t, "a", "1")
	answers, _ := w.synced()
	if len(answers) != 1 || answers[0].WatchId != 1 {
		t.Fatal(answers)
	}
	z.delete(t, "a", "")
	w.want("0: DELETE a@3=")
}

// Events of one revision are in one answer for a watch, or in parts of it if it has asked for those.
func TestWatchFragments(t *testing.T) {
	z := newZone()
	w := watchingWith(t, z, Config{MaxRequestBytes: 64 << 10})
	fragments := all()
	fragments.Fragment = true
	w.create(all())
	w.create(fragments)
	z.putAll(t, 100, strings.Repeat("v", 3000))
	answers, _ := w.synced()
	if len(answers) < 6 || len(answers[0].Events) != 100 || answers[0].WatchId != 0 || answers[0].Fragment {
		t.Fatalf("%d answers, the first one with %d events", len(answers), len(answers[0].Events))
	}
	n := 0
	for i, resp := range answers[1:] {
		n += len(resp.Events)
		if last := i == len(answers)-2; resp.WatchId != 1 || resp.Fragment == last || proto.Size(resp) > 64<<10 {
			t.Errorf("part %d: watch %d, fragment %t, %d bytes", i, resp.WatchId, resp.Fragment, proto.Size(resp))
		}
	}
	if n != 100 {
		t.Errorf("%d events in parts", n)
	}
}

// A watch that asks for it is told how far it is after a while without events, and not before it has begun.
func TestWatchProgressNotify(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	w := watchingWith(t, z, Config{WatchProgressInterval: 20 * time.Millisecond})
	req, future := all(), from(10)
	req.ProgressNotify, future.ProgressNotify = true, true
	w.create(future)
	w.create(req)
	for range 3 {
		if resp := w.recv(); resp.WatchId != 1 || resp.Header.Revision != 2 || len(resp.Events) > 0 {
			t.Fatal(resp)
		}
	}
}

// etcd 15220: no answer to a request for progress overtakes an event that it claims was sent.
func TestEtcd15220ProgressAfterItsEvents(t *testing.T) {
	z := newZone()
	for i := range 300 {
		z.put(t, fmt.Sprint("k", i%7), strings.Repeat("v", 300))
	}
	w := watching(t, z)
	for i := range 5 {
		w.ask(from(int64(2 + 10*i)))
	}
	w.ask(from(2))
	w.askProgress()
	last := make(map[int64]int64)
	for {
		resp := w.recv()
		if resp.WatchId == -1 {
			for id, rev := range last {
				if rev != resp.Header.Revision {
					t.Errorf("progress at %d, watch %d is at %d", resp.Header.Revision, id, rev)
				}
			}
			if len(last) != 6 || resp.Header.Revision != 301 {
				t.Errorf("%d watches, progress at %d", len(last), resp.Header.Revision)
			}
			return
		}
		for _, e := range resp.Events {
			last[resp.WatchId] = e.Kv.ModRevision
		}
	}
}

// etcd 17507: a new watch that gets no events hears of progress.
func TestEtcd17507ProgressWithoutEvents(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	w := watching(t, z)
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b")})
	if _, rev := w.synced(); rev != 2 {
		t.Errorf("progress at %d", rev)
	}
	z.put(t, "a", "2")
	if _, rev := w.synced(); rev != 3 {
		t.Errorf("progress at %d", rev)
	}
}

// kine 568 and 577: no answer about progress has revision 0, whatever the stream has.
func TestKine568ProgressNeverAtZero(t *testing.T) {
	w := watching(t, newZone())
	if answers, rev := w.synced(); rev != 1 || len(answers) > 0 {
		t.Errorf("without a watch: %d, %v", rev, answers)
	}
	w.create(all())
	if _, rev := w.synced(); rev != 1 {
		t.Errorf("of an empty zone: %d", rev)
	}
}

// etcd 15271: after a replica has taken its state from a snapshot, its watches go on, and never back.
func TestEtcd15271SnapshotUnderWatches(t *testing.T) {
	z, ahead := newZone(), newZone()
	for i := range 3 {
		z.put(t, "a", fmt.Sprint(i))
	}
	for i := range 6 {
		ahead.put(t, "a", fmt.Sprint(i))
	}
	w := watching(t, z)
	w.create(from(3))
	w.want("0: PUT a@3=1", "0: PUT a@4=2")
	z.mu.Lock()
	z.state = ahead.state
	z.mu.Unlock()
	z.bell.Notify()
	w.want("0: PUT a@5=3", "0: PUT a@6=4", "0: PUT a@7=5")
}

// A watch whose place was compacted in the snapshot is told so, once.
func TestEtcd15271SnapshotThatWasCompacted(t *testing.T) {
	z, ahead := newZone(), newZone()
	z.put(t, "a", "1")
	for i := range 6 {
		ahead.put(t, "a", fmt.Sprint(i))
	}
	ahead.sweep(t, 5)
	w := watching(t, z)
	w.create(all())
	w.synced()
	z.mu.Lock()
	z.state = ahead.state
	z.mu.Unlock()
	z.bell.Notify()
	if resp := w.recv(); !resp.Canceled || resp.CompactRevision != 5 || resp.WatchId != 0 {
		t.Fatal(resp)
	}
	if answers, rev := w.synced(); len(answers) > 0 || rev != 7 {
		t.Error(answers, rev)
	}
}

// etcd 20221: a watch of a revision to come gets no earlier event and no progress, also after a snapshot.
func TestEtcd20221FutureWatch(t *testing.T) {
	z, ahead := newZone(), newZone()
	z.put(t, "a", "1")
	for i := range 6 {
		ahead.put(t, "a", fmt.Sprint(i))
	}
	w := watching(t, z)
	w.create(from(6))
	w.askProgress()
	z.put(t, "a", "2")
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("other")}) // nothing came before this
	z.mu.Lock()
	z.state = ahead.state
	z.mu.Unlock()
	z.bell.Notify()
	resp := w.recv()
	if len(resp.Events) != 2 || resp.Events[0].Kv.ModRevision != 6 || resp.WatchId != 0 {
		t.Fatal(resp)
	}
	if resp = w.recv(); resp.WatchId != -1 || resp.Header.Revision != 7 {
		t.Fatal(resp)
	}
}

// etcd 17529: a stream that was starved while compaction passed it is told so, and never skips.
func TestEtcd17529StarvedAndCompacted(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(all())
	w.synced()
	z.mu.Lock() // the stream reads nothing until here
	var commands [][]byte
	for i := range 50 {
		command, _ := kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte("a"), Value: fmt.Append(nil, i)})
		commands = append(commands, command)
	}
	compact, _ := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: 40})
	for _, command := range append(commands, compact, kv.EncodeSweep(100)) {
		if _, err := (kv.StateMachine{}).Apply(z.state, nexusraft.Command{Data: command, Version: z.version}); err != nil {
			t.Fatal(err)
		}
	}
	z.mu.Unlock()
	z.bell.Notify()
	if resp := w.recv(); !resp.Canceled || resp.CompactRevision != 40 || len(resp.Events) > 0 {
		t.Fatal(resp)
	}
}

// kine 747: a watch that starts at the compaction revision has what was changed there, deletes included (etcd 18089).
func TestKine747WatchAtTheCompactionRevision(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	z.delete(t, "a", "")
	z.put(t, "b", "2")
	z.sweep(t, 3)
	w := watching(t, z)
	w.create(from(3))
	w.want("0: DELETE a@3=", "0: PUT b@4=2")
}

// kine 198: a watch is cancelled once, whatever ends it, and nothing follows.
func TestKine198CancelledOnce(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	z.put(t, "a", "2")
	z.sweep(t, 3)
	w := watching(t, z)
	w.ask(from(2))
	w.cancel(0)
	w.ask(all())
	w.cancel(1)
	w.cancel(1)
	w.cancel(99)
	z.put(t, "a", "3")
	answers, _ := w.synced()
	cancelled := make(map[int64]int)
	for _, resp := range answers {
		if resp.Canceled {
			cancelled[resp.WatchId]++
		}
		if len(resp.Events) > 0 && cancelled[resp.WatchId] > 0 { // before that they are right
			t.Error(resp)
		}
	}
	if cancelled[1] != 1 || cancelled[0] > 1 || cancelled[99] != 0 {
		t.Error(cancelled)
	}
}

// etcd 12385: a refused watch is reported as -1, not as 0, which is another one's.
func TestEtcd12385RefusedIsNotZero(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(all())
	if resp := w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}); resp.WatchId != -1 {
		t.Error(resp)
	}
	z.put(t, "a", "1")
	w.want("0: PUT a@2=1")
}

// etcd PR 20693: a watch from revision -1 is refused, and does not disturb the others.
func TestEtcdPR20693NegativeStart(t *testing.T) {
	z := newZone()
	z.put(t, "a", "1")
	w := watching(t, z)
	w.create(from(2))
	w.synced()
	if resp := w.create(from(-1)); !resp.Canceled || resp.WatchId != -1 || resp.CompactRevision != 0 {
		t.Error(resp)
	}
	z.put(t, "a", "2")
	w.want("0: PUT a@3=2")
}

// etcd GHSA-xg4h-6gfc-h4m8: no end is one key, and one zero byte as end all keys from there.
func TestEtcdXg4hOneKeyIsNoOpenRange(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b")})
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte{0}})
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b\x00")})
	w.create(&etcdserverpb.WatchCreateRequest{})
	for _, key := range []string{"a", "b", "b\x00", "c"} {
		z.put(t, key, "1")
	}
	got := make(map[int64]string)
	answers, _ := w.synced()
	for _, resp := range answers {
		for _, e := range resp.Events {
			got[resp.WatchId] += string(e.Kv.Key) + ";"
		}
	}
	if want := (map[int64]string{0: "b;", 1: "b;b\x00;c;", 2: "b;"}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v", got)
	}
}

// A stream whose client requires a leader ends some election timeouts after there is none; another one goes on.
func TestWatchRequiresLeader(t *testing.T) {
	z := newZone()
	conn := serveConfig(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, Config{ElectionTimeout: 10 * time.Millisecond})
	requires, silent := openWatch(t, z, conn, "hasleader", "true"), openWatch(t, z, conn)
	requires.create(all())
	silent.create(all())
	z.leaderless.Store(true)
	_, err := requires.stream.Recv()
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: no leader" {
		t.Error(err)
	}
	z.put(t, "a", "1")
	silent.want("0: PUT a@2=1")
}

// A caller whose right was taken is sent nothing more, and its stream ends.
func TestWatchDenied(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(all())
	w.synced()
	z.mu.Lock()
	z.denied = nexusraft.ErrDenied
	z.mu.Unlock()
	z.put(t, "a", "1")
	if resp, err := w.stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Error(resp, err)
	}
}

// The watches of a caller have a bound together; more are refused, and the stream goes on.
func TestWatchesAreBounded(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	long := &etcdserverpb.WatchCreateRequest{
		Key: bytes.Repeat([]byte{'k'}, kv.MaxKeyBytes), RangeEnd: bytes.Repeat([]byte{'l'}, kv.MaxKeyBytes),
	}
	for range budget.WatchBytesOfPrincipal / (budget.WatchOverhead + 2*kv.MaxKeyBytes) {
		if resp := w.create(long); resp.Canceled {
			t.Fatal(resp)
		}
	}
	resp := w.create(long)
	if !resp.Canceled || resp.WatchId != -1 || !strings.Contains(resp.CancelReason, "32 MiB") {
		t.Fatal(resp)
	}
	w.cancel(0)
	w.recv()
	if resp := w.create(long); resp.Canceled {
		t.Error(resp)
	}
}

// A watch of what no key can be is refused, and a stream with a request larger than any watch needs ends: what waits
// counts nowhere.
func TestWatchRequestsAreBounded(t *testing.T) {
	w := watching(t, newZone())
	long := bytes.Repeat([]byte{'k'}, kv.MaxKeyBytes+2)
	for _, req := range []*etcdserverpb.WatchCreateRequest{{Key: long}, {Key: []byte("k"), RangeEnd: long}} {
		if resp := w.create(req); !resp.Canceled || resp.WatchId != -1 || !strings.Contains(resp.CancelReason, "4096 bytes") {
			t.Error(resp)
		}
	}
	key := bytes.Repeat([]byte{'k'}, kv.MaxKeyBytes) // what follows it is as good
	if resp := w.create(&etcdserverpb.WatchCreateRequest{Key: key, RangeEnd: append(key, 0)}); resp.Canceled {
		t.Error(resp)
	}
	w.ask(&etcdserverpb.WatchCreateRequest{Key: make([]byte, 16<<10)})
	_, err := w.stream.Recv()
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "request is too large") {
		t.Error(err)
	}
}

// After the client has closed its side the stream goes on.
func TestWatchAfterCloseSend(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(all())
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	z.put(t, "a", "1")
	if resp := w.recv(); len(resp.Events) != 1 {
		t.Error(resp)
	}
}
