package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// record is what is stored about one file, as a shared file system's metadata would be.
type record struct {
	Size   int64     `json:"size"`
	Mode   string    `json:"mode"`
	MTime  time.Time `json:"mtime"`
	SHA256 string    `json:"sha256"` // of the content; of the target's text for a symbolic link

	// Write numbers the writes of one demo, so that no two values are equal: what is
	// read back says which write it came from.
	Write uint64 `json:"write"`
}

func (r record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("demo: record does not marshal: " + err.Error()) // plain strings and integers always do
	}
	return b
}

func decodeRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("decode record: %w", err)
	}
	return r, nil
}

// sameFile reports whether both records describe a file in the same state.
func (r record) sameFile(o record) bool {
	return r.Size == o.Size && r.Mode == o.Mode && r.MTime.Equal(o.MTime) && r.SHA256 == o.SHA256
}

// recorder reads files below one directory. It remembers the digests of files that have
// not changed since, so that a further round costs no reading. For one goroutine.
type recorder struct {
	root *os.Root
	seen map[string]record
}

func newRecorder(root *os.Root) *recorder {
	return &recorder{root: root, seen: make(map[string]record)}
}

// read returns the record of the file at path, relative to the directory, without a
// number. It opens nothing but regular files: a pipe could keep it waiting for ever.
func (r *recorder) read(path string) (record, error) {
	info, err := r.root.Lstat(path)
	if err != nil {
		return record{}, err
	}
	rec := describe(info)
	if old, ok := r.seen[path]; ok && old.Size == rec.Size && old.Mode == rec.Mode && old.MTime.Equal(rec.MTime) {
		return old, nil
	}
	switch {
	case info.Mode().IsRegular():
		rec, err = r.content(path)
	case info.Mode()&fs.ModeSymlink != 0:
		rec.SHA256, err = r.link(path)
	default:
		err = errors.New("not a file but " + kindOf(info.Mode()))
	}
	if err != nil {
		return record{}, err
	}
	r.seen[path] = rec
	return rec, nil
}

// content describes and digests an open file. It reads no more than the size that the
// record names: a file that grows under it would never end.
func (r *recorder) content(path string) (record, error) {
	f, err := r.root.Open(path)
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return record{}, err
	}
	rec := describe(info)
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, rec.Size)); err != nil {
		return record{}, err
	}
	rec.SHA256 = hex.EncodeToString(h.Sum(nil))
	return rec, nil
}

func (r *recorder) link(path string) (string, error) {
	target, err := r.root.Readlink(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(target))
	return hex.EncodeToString(sum[:]), nil
}

func describe(info fs.FileInfo) record {
	return record{Size: info.Size(), Mode: info.Mode().String(), MTime: info.ModTime().UTC()}
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	case mode.IsDir():
		return "a directory"
	}
	return "something else"
}
