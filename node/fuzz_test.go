package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A snapshot's bytes give the same pairs however they are cut into chunks, or an error; and
// what is decoded encodes to what was read.
func FuzzStateDecoder(f *testing.F) {
	f.Add([]byte("\x01a\x02bc\x00\x00"), uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint8(3))
	f.Add([]byte("\x05ab"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole, rest, err := decodeState(data, len(data)+1)
		pieces, restOfPieces, errOfPieces := decodeState(data, int(size)+1)
		if (err == nil) != (errOfPieces == nil) || err == nil && rest != restOfPieces || !slices.EqualFunc(whole, pieces, samePair) {
			t.Errorf("%x: got %v, %d, %v at once and %v, %d, %v in chunks of %d", data, whole, rest, err, pieces, restOfPieces, errOfPieces, int(size)+1)
		}
		if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%x: got %v, want ErrCorrupt", data, err)
		}
	})
}

func samePair(a, b nexusraft.Pair) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

// decodeState decodes in chunks, and returns how many bytes are left over.
func decodeState(data []byte, size int) (pairs []nexusraft.Pair, left int, err error) {
	var d stateDecoder
	for chunk := range slices.Chunk(data, size) {
		d.add(chunk)
		for {
			p, ok, err := d.next()
			if err != nil {
				return pairs, 0, err
			}
			if !ok {
				break
			}
			pairs = append(pairs, nexusraft.Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
		}
	}
	return pairs, len(d.rest), nil
}

// Records of identities and peers are read or refused as corrupt.
func FuzzDecodeRecords(f *testing.F) {
	f.Add([]byte(`{"node":"01","cluster":"02","incarnation":3}`))
	f.Add([]byte(`{"incarnation":18446744073709551615,"address":"a:1"}`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && id.Node == 0 || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("identity %q: got %+v, %v; want a node or ErrCorrupt", b, id, err)
		}
		key := append([]byte(peerPrefix), b...)
		for _, p := range []nexusraft.Pair{{Key: peerKey(7), Value: b}, {Key: key, Value: []byte("{}")}} {
			if _, _, err := decodePeer(p); err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("peer %q: got %v, want ErrCorrupt", p, err)
			}
		}
	})
}

// FuzzApplyOwn runs any command of the nodes over a state that has a bit of everything: it is applied, refused, or
// stops the zone, and the same on two replicas.
func FuzzApplyOwn(f *testing.F) {
	for _, c := range []*pb.NodeCommand{
		setRole("admin", 1, pb.AccessRole_ACCESS_ROLE_READ), deletePrincipalOf("admin"), putToken("admin", 2, 1000), deleteToken(1),
		{Kind: &pb.NodeCommand_Publish{Publish: &pb.PublishEvent{Topic: "app/a", Type: "t", Payload: []byte("p")}}},
		{Kind: &pb.NodeCommand_Retention{Retention: &pb.EventRetention{Count: 1}}},
		{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: &pb.UseJoinToken{Id: make([]byte, 8), Node: 1}}},
	} {
		f.Add(own(f, c))
	}
	base := accessState(f, memStore(f))
	for _, c := range []*pb.NodeCommand{setRole("a", 1, pb.AccessRole_ACCESS_ROLE_WRITE), putToken("admin", 1, 1000)} {
		if a, err := applyOwn(base, 1, own(f, c)); err != nil || a.err != nil {
			f.Fatal(err, a.err)
		}
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		first, second := storage.NewOverlay(base), storage.NewOverlay(base)
		a, err := applyOwn(first, 2, command)
		b, again := applyOwn(second, 2, command)
		if err != nil && !errors.Is(err, errMachine) || a.err != nil && !isRefusal(a.err) {
			t.Errorf("%x: got %v, %v", command, a.err, err)
		}
		if fmt.Sprint(a.data, a.err, a.published, a.access, err) != fmt.Sprint(b.data, b.err, b.published, b.access, again) || dump(t, first) != dump(t, second) {
			t.Errorf("%x: two replicas differ: %v %v and %v %v", command, a, err, b, again)
		}
	})
}

func FuzzAccessRecords(f *testing.F) {
	text, id, _ := newAccessToken()
	f.Add([]byte(text))
	f.Add(id)
	f.Add([]byte(accessTokenText + strings.Repeat("\n", 39)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePrincipal(b); (p == nil) != errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("principal %x: got %v, %v", b, p, err)
		}
		if x, err := decodeAccessToken(b); (x == nil) != errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("access token %x: got %v, %v", b, x, err)
		}
		id, hash, err := parseAccessToken(string(b))
		if err == nil && (len(id) != accessTokenIDBytes || len(hash) != 32) || err != nil && !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%q: got %x %x, %v", b, id, hash, err)
		}
	})
}
