package raftlog

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// FuzzDecode reads any bytes as each record of a zone, and as the key of one. What decodes
// encodes to what decodes to the same; everything else is ErrCorrupt.
func FuzzDecode(f *testing.F) {
	for _, m := range []Meta{jointMeta(), testMeta(10, 2)} {
		b, err := encodeMeta(m)
		must(f, err)
		f.Add(b)
	}
	hs, err := encodeHardState(hardState(3, 1, 12))
	must(f, err)
	for _, b := range [][]byte{
		hs, encodeEntry(f, entry(13, 3, "payload")), encodeApplied(12), recordKey(1, kindMeta), entryKey(1, 13),
		{},
		[]byte("\x01null"), []byte(`{"replica":"1"}`), []byte("\x01" +
			`{"replica":"1","state_tree":"s","membership":{"removed":[]}}`),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for what, err := range map[string]error{
			"meta": fuzzMeta(t, b), "hard state": fuzzHardState(t, b), "entry": fuzzEntry(t, b),
			"applied index": fuzzApplied(t, b), "key": fuzzKey(t, b),
		} {
			if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("%s %x: got %v, want ErrCorrupt", what, b, err)
			}
		}
	})
}

func fuzzMeta(t *testing.T, b []byte) error {
	m, err := decodeMeta(b)
	if err != nil {
		return err
	}
	again, err := encodeMeta(m)
	if err != nil {
		t.Fatalf("what was decoded does not encode: %v", err)
	}
	m2, err := decodeMeta(again)
	must(t, err)
	if d := cmp.Diff(m, m2, protocmp.Transform(), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("decoded, encoded and decoded again (-first +second):\n%s", d)
	}
	return nil
}

func fuzzHardState(t *testing.T, b []byte) error {
	hs, err := decodeHardState(b)
	if err != nil {
		return err
	}
	if again, err := encodeHardState(hs); err != nil || len(again) > len(b) {
		t.Errorf("hard state %x encodes to %x, %v", b, again, err)
	}
	return nil
}

func fuzzEntry(t *testing.T, b []byte) error {
	e, err := decodeEntry(b, 13)
	if err == nil && (e.GetIndex() != 13 || e.GetTerm() == 0) {
		t.Errorf("entry 13 of a term decoded as %v", e)
	}
	return err
}

func fuzzApplied(t *testing.T, b []byte) error {
	index, err := decodeApplied(b)
	if err == nil && !bytes.Equal(encodeApplied(index), b) {
		t.Errorf("applied index %x decoded as %d", b, index)
	}
	return err
}

func fuzzKey(t *testing.T, b []byte) error {
	zone, kind, index, err := parseKey(b)
	if err != nil {
		return err
	}
	again := recordKey(zone, kind)
	if kind == kindEntry {
		again = entryKey(zone, index)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("key %x was parsed as zone %d, kind %d, index %d", b, zone, kind, index)
	}
	return nil
}
