package etcdtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A sequence begins on an empty store, whose revision is called origin. Revisions in steps and in
// outcomes count from there, so that a sequence can be played again on a store with a past: those
// from lowest to highest are shifted, all others stand for themselves.
const (
	origin  = 1000
	lowest  = origin - 100
	highest = 10 * origin
)

// step is one request of a sequence.
type step struct {
	member int           // which member of a cluster is asked: 0 or 1
	method string        // as in etcd's services: one of methods
	req    proto.Message // with revisions that count from origin
}

// methods are the requests that a step may have.
var methods = map[string]func() proto.Message{
	"Range":       func() proto.Message { return new(etcdserverpb.RangeRequest) },
	"RangeStream": func() proto.Message { return new(etcdserverpb.RangeRequest) },
	"Put":         func() proto.Message { return new(etcdserverpb.PutRequest) },
	"DeleteRange": func() proto.Message { return new(etcdserverpb.DeleteRangeRequest) },
	"Txn":         func() proto.Message { return new(etcdserverpb.TxnRequest) },
	"Compact":     func() proto.Message { return new(etcdserverpb.CompactionRequest) },
	"HashKV":      func() proto.Message { return new(etcdserverpb.HashKVRequest) },

	"LeaseGrant":      func() proto.Message { return new(etcdserverpb.LeaseGrantRequest) },
	"LeaseRevoke":     func() proto.Message { return new(etcdserverpb.LeaseRevokeRequest) },
	"LeaseKeepAlive":  func() proto.Message { return new(etcdserverpb.LeaseKeepAliveRequest) },
	"LeaseTimeToLive": func() proto.Message { return new(etcdserverpb.LeaseTimeToLiveRequest) },
	"LeaseLeases":     func() proto.Message { return new(etcdserverpb.LeaseLeasesRequest) },
}

// twoSpaces come and go between fields from one build of the protobuf library to the next; no key or
// value of a step has them.
var twoSpaces = regexp.MustCompile(" {2,}")

// String writes the step as parseStep reads it: member, method, and the request's fields.
func (s step) String() string {
	fields, err := prototext.MarshalOptions{}.Marshal(s.req)
	if err != nil {
		return fmt.Sprintf("%d %s %v", s.member, s.method, err)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", s.member, s.method, twoSpaces.ReplaceAll(fields, []byte(" "))))
}

func parseStep(line string) (step, error) {
	member, rest, _ := strings.Cut(line, " ")
	method, fields, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(member)
	if err != nil || n < 0 || n > 1 || methods[method] == nil {
		return step{}, fmt.Errorf("%q does not begin with a member, 0 or 1, and a method", line)
	}
	s := step{member: n, method: method, req: methods[method]()}
	return s, prototext.Unmarshal([]byte(fields), s.req)
}

// formatSteps writes a sequence, one step a line.
func formatSteps(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// readSteps reads a file of steps, without its empty lines and comments.
func readSteps(path string) ([]step, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var steps []step
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseStep(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		steps = append(steps, s)
	}
	if len(steps) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has no steps", path), lines.Err())
	}
	return steps, lines.Err()
}

// absolute returns the request for a store whose revision was base when the sequence began.
func (s step) absolute(base int64) proto.Message {
	req := proto.Clone(s.req)
	mapRevisions(req.ProtoReflect(), func(r int64) int64 {
		if r < lowest || r > highest {
			return r
		}
		return r - origin + base
	})
	return req
}

// relative makes the revisions of an answer count from origin; 0 and −1 are none.
func relative(answer proto.Message, base int64) {
	mapRevisions(answer.ProtoReflect(), func(r int64) int64 {
		if r <= 0 {
			return r
		}
		return r - base + origin
	})
}

// mapRevisions replaces each revision in m and in the messages in m.
func mapRevisions(m protoreflect.Message, f func(int64) int64) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsList() && field.Message() != nil:
			for i := range v.List().Len() {
				mapRevisions(v.List().Get(i).Message(), f)
			}
		case field.Message() != nil:
			mapRevisions(v.Message(), f)
		case field.Kind() == protoreflect.Int64Kind && strings.HasSuffix(string(field.Name()), "revision"):
			m.Set(field, protoreflect.ValueOfInt64(f(v.Int())))
		}
		return true
	})
}
