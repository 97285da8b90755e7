package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Position says where to go on, and in what.
type Position struct {
	Source string `json:"source"` // whose events they are: what was followed
	// the first sequence that is not accepted yet; 0 for none
	Next        uint64                `json:"next_sequence"`
	Incarnation nexusraft.Incarnation `json:"incarnation,omitempty"` // of the node whose own events they are
}

// stateFormat is in every state file, so that no other file is taken for one.
const stateFormat = "nexus-raft webhook 1"

// maxStateBytes is well above what any state file has.
const maxStateBytes = 4 << 10

// saveEvery bounds how often a state file is written.
const saveEvery = time.Second

// stored is the content of a state file, JSON.
type stored struct {
	Format string `json:"format"`
	Position
}

// State is a file that keeps a position. It is locked while it is open: no other process on this
// machine can open it. One goroutine uses it at a time.
type State struct {
	path     string
	lock     *flock.Flock
	position Position
	unsaved  bool
	saved    time.Time
	now      func() time.Time
}

// OpenState opens the file at path, or begins one for source. It fails if another process has it
// open, if it is of another source, or if it is no state file; it leaves such a file as it is.
// Beside it a file with the suffix .lock is made, and stays. A symbolic link is refused.
func OpenState(path, source string) (*State, error) {
	if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(real, filepath.Base(path)) // the lock is of the file, whatever its directory is called
	}
	for _, name := range []string{path, path + ".lock"} {
		if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("webhook: state file: %s is a link or no file, and where it leads is not this program's to "+
				"write; name a file of its own", name)
		}
	}
	s := &State{path: path, lock: flock.New(path + ".lock"), now: time.Now, position: Position{Source: source}}
	switch ok, err := s.lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("webhook: lock state file: %w", err)
	case !ok:
		return nil, fmt.Errorf("webhook: state file %s is in use by another bridge; stop that one, or give this one a file "+
			"of its own", path)
	}
	if err := s.load(source); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

func (s *State) load(source string) error {
	content, err := readBounded(s.path, maxStateBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return s.write() // now rather than after the first event: a bad path is told at once
	}
	if err != nil {
		return fmt.Errorf("webhook: read state file: %w", err)
	}
	p, err := decodeState(content)
	switch {
	case err != nil:
		return fmt.Errorf("webhook: %s: %w; name another file, or remove it to begin anew", s.path, err)
	case p.Source != source:
		return fmt.Errorf("webhook: state file %s is of %.128q, not of %q; name another file", s.path, p.Source, source)
	}
	s.position = p
	return nil
}

// decodeState reads what write wrote.
func decodeState(content []byte) (Position, error) {
	var st stored
	if err := json.Unmarshal(content, &st); err != nil || st.Format != stateFormat {
		return Position{}, fmt.Errorf("%w: it is no state file of this release", nexusraft.ErrCorrupt)
	}
	return st.Position, nil
}

// Position returns where to go on; Next is 0 if nothing was done yet.
func (s *State) Position() Position { return s.position }

// Done notes that everything before next is done. It is on disk at once, or, if the file
// was written less than a second ago, with a later call of Done or Close: after a crash
// the events in between are posted again.
func (s *State) Done(next uint64, incarnation nexusraft.Incarnation) error {
	if s.position.Next == next && s.position.Incarnation == incarnation {
		return nil
	}
	s.position.Next, s.position.Incarnation, s.unsaved = next, incarnation, true
	if s.now().Sub(s.saved) < saveEvery {
		return nil
	}
	return s.write()
}

// Close writes what is not written yet and lets the file go.
func (s *State) Close() error {
	var err error
	if s.unsaved {
		err = s.write()
	}
	return errors.Join(err, s.lock.Close())
}

// write replaces the file: after a crash there is the old content or the new.
func (s *State) write() error {
	content, err := json.Marshal(stored{stateFormat, s.position})
	if err != nil {
		return fmt.Errorf("webhook: encode state: %w", err)
	}
	next := s.path + ".new" // ours alone: the lock is held
	if err := writeSynced(next, append(content, '\n')); err != nil {
		return fmt.Errorf("webhook: write state file: %w", err)
	}
	if err := replace(next, s.path); err != nil {
		return fmt.Errorf("webhook: write state file: %w", err)
	}
	s.unsaved, s.saved = false, s.now()
	return nil
}

func writeSynced(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a crash left it, or somebody a link
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace renames a file over another one, durably.
func replace(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// syncDir makes a rename durable. Windows has no such call and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
