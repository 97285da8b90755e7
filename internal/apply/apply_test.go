package apply

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// emptyState is a state tree in memory.
func emptyState(t testing.TB) *storage.Overlay {
	t.Helper()
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tree, err := s.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	return storage.NewOverlay(tree)
}

// publisher is a state machine that publishes what its commands say: "n SIZE", or fails
// after it has ("fail"), or panics.
type publisher struct{}

func (publisher) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	text := string(cmd.Data)
	payload := []byte(text)
	if err := tx.Publish("app/"+text, "seen", payload); err != nil {
		return nil, err
	}
	clear(payload) // it was copied
	if text == "fail" {
		return nil, errors.New("failed as asked")
	}
	return nil, nil
}

func TestEventsOfCommands(t *testing.T) {
	o := emptyState(t)
	for i, text := range []string{"one", "fail", "two"} {
		a, err := Command(Machine{StateMachine: publisher{}}, o, nexusraft.Index(i+1),
			&zone.Envelope{Time: int64(100 + i), Command: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		if (a.Err != nil) != (text == "fail") || a.Published != (text != "fail") {
			t.Errorf("%s: got %+v", text, a)
		}
	}
	var got []string
	for p, err := range o.Scan(system.EventKey(1), system.EventKey(9)) {
		if err != nil {
			t.Fatal(err)
		}
		e, err := system.DecodeEvent(p.Value)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %s %s %s", e.Time, e.Topic, e.Type, e.Payload))
	}
	if want := []string{"100 app/one seen one", "102 app/two seen two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// noter is a state machine that notes what its commands say, with the version that it is told, and fails as publisher.
type noter struct{}

func (noter) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	tx.Note(fmt.Sprintf("%s at %d", cmd.Data, cmd.Version))
	if string(cmd.Data) == "fail" {
		return nil, errors.New("failed as asked")
	}
	return nil, nil
}

// Notes of a command that fails, and those that nobody hears, are dropped.
func TestNotesOfCommands(t *testing.T) {
	o := emptyState(t)
	for _, x := range []struct {
		text  string
		heard bool
		want  []any
	}{{"one", true, []any{"one at 3"}}, {"fail", true, nil}, {"two", false, nil}} {
		m := Machine{StateMachine: noter{}, Version: 3, Heard: x.heard}
		a, err := Command(m, o, 1, &zone.Envelope{Time: 1, Command: []byte(x.text)})
		if err != nil || !slices.Equal(a.Notes, x.want) {
			t.Errorf("%s: got %v, %v, want %v", x.text, a.Notes, err, x.want)
		}
	}
}
