package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Limits of commands. All replicas depend on them: they can't be changed for a zone that has
// commands.
const (
	maxPathBytes    = 4 << 10
	maxNameBytes    = 255
	maxContentBytes = 64 << 10
)

// What a command does, in its first byte. Strings follow, each after its length (uvarint).
const (
	opMkdir  = 'm' // path
	opCreate = 'c' // path, content
	opRename = 'r' // path, new path
	opRemove = 'd' // path
)

// Mkdir is the command that makes an empty directory.
func Mkdir(path string) []byte { return encode(opMkdir, path) }

// Create is the command that makes a file. Content says where the file's bytes are, and whatever
// else the program keeps of it.
func Create(path, content string) []byte { return encode(opCreate, path, content) }

// Rename is the command that gives a file or a directory, with all that is in it, another path. A
// file takes the place of a file; anything else that is there is a reason to refuse, and so is a
// new path inside the directory itself.
func Rename(path, to string) []byte { return encode(opRename, path, to) }

// Remove is the command that removes a file or an empty directory.
func Remove(path string) []byte { return encode(opRemove, path) }

func encode(op byte, fields ...string) []byte {
	command := []byte{op}
	for _, f := range fields {
		command = append(binary.AppendUvarint(command, uint64(len(f))), f...)
	}
	return command
}

// decode returns a command's fields, and whether there are n of them and nothing else.
func decode(data []byte, n int) (fields []string, ok bool) {
	for range n {
		size, used := binary.Uvarint(data)
		if used <= 0 || size > uint64(len(data)-used) {
			return nil, false
		}
		data = data[used:]
		fields, data = append(fields, string(data[:size])), data[size:]
	}
	return fields, len(data) == 0
}

// tree is a file system's tree of names as a state machine. Its keys:
//
//	i, inode           what the inode is: a directory ("d"), or a file ("f", content)
//	e, inode, name     an entry of that directory: the inode of that name, 8 bytes
//
// An inode is the order of the command that made it, so none is used twice; the root's is 0, and
// has no record. A rename changes two entries, however much is in the directory. What a command
// costs is bounded by the lengths of its paths: for each name one entry and one inode are read.
type tree struct{}

func (tree) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if len(cmd.Data) == 0 {
		return nil, refuse("an empty command: make one with Mkdir, Create, Rename or Remove")
	}
	op, data := cmd.Data[0], cmd.Data[1:]
	n := 1
	if op == opCreate || op == opRename {
		n = 2
	}
	fields, ok := decode(data, n)
	switch inode := cmd.Order(); {
	case !ok:
	case op == opMkdir:
		return nil, add(tx, fields[0], inode, []byte("d"))
	case op == opCreate && len(fields[1]) > maxContentBytes:
		return nil, refuse("a content of %d bytes, the limit is %d: keep the file's bytes elsewhere",
			len(fields[1]), maxContentBytes)
	case op == opCreate:
		return nil, add(tx, fields[0], inode, []byte("f"+fields[1]))
	case op == opRename:
		return nil, rename(tx, fields[0], fields[1])
	case op == opRemove:
		return nil, remove(tx, fields[0])
	}
	return nil, refuse("a command %q of %d bytes: make one with Mkdir, Create, Rename or Remove", op, len(cmd.Data))
}

// refuse returns a refusal, which its proposer can tell from other errors on any member.
func refuse(format string, args ...any) error {
	return fmt.Errorf("fstree: %w: "+format, append([]any{nexusraft.ErrRefused}, args...)...)
}

// place is where a path leads to: an entry of a directory, which may be free.
type place struct {
	above []uint64 // the inodes of the directories on the way, from the root to the entry's own
	name  string   // "" for the root itself
	inode uint64
	taken bool
	file  bool
}

// entry is the key of the place.
func (p place) entry() []byte { return entryKey(p.above[len(p.above)-1], p.name) }

func inodeKey(inode uint64) []byte { return binary.BigEndian.AppendUint64([]byte("i"), inode) }

func entryKey(directory uint64, name string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte("e"), directory), name...)
}

// find follows a path from the root to its last name, which need not be there. All before it must
// be directories.
func find(r nexusraft.Reader, path string) (p place, err error) {
	if len(path) > maxPathBytes {
		return place{}, refuse("a path of %d bytes, the limit is %d", len(path), maxPathBytes)
	}
	p = place{above: []uint64{0}, taken: true}
	if path == "/" {
		return p, nil
	}
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return place{}, refuse("the path %q does not begin with a slash", path)
	}
	for name := range strings.SplitSeq(rest, "/") {
		if err := checkName(path, name); err != nil {
			return place{}, err
		}
		switch {
		case !p.taken:
			return place{}, refuse("%q: no directory %q: make it first", path, p.name)
		case p.file:
			return place{}, refuse("%q: %q is a file, not a directory", path, p.name)
		case p.name != "":
			p.above = append(p.above, p.inode)
		}
		p.name = name
		if p.inode, p.file, p.taken, err = look(r, p.entry()); err != nil {
			return place{}, err
		}
	}
	return p, nil
}

func checkName(path, name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return refuse("the path %q has the name %q: give a path as it is, without a slash at its end", path, name)
	case len(name) > maxNameBytes:
		return refuse("a name of %d bytes, the limit is %d", len(name), maxNameBytes)
	case strings.ContainsRune(name, 0):
		return refuse("the path %q has a zero byte", path)
	}
	return nil
}

// look reads what an entry leads to.
func look(r nexusraft.Reader, entry []byte) (inode uint64, file, taken bool, err error) {
	value, ok, err := r.Get(entry)
	if err != nil || !ok {
		return 0, false, false, err
	}
	inode = binary.BigEndian.Uint64(value)
	kind, _, err := r.Get(inodeKey(inode))
	return inode, len(kind) > 0 && kind[0] == 'f', true, err
}

func add(tx nexusraft.Tx, path string, inode uint64, record []byte) error {
	p, err := find(tx, path)
	switch {
	case err != nil:
		return err
	case p.taken:
		return refuse("%q is there already", path)
	}
	if err := tx.Set(inodeKey(inode), record); err != nil {
		return err
	}
	return link(tx, p, inode)
}

// link has a place's entry lead to an inode.
func link(tx nexusraft.Tx, p place, inode uint64) error {
	return tx.Set(p.entry(), binary.BigEndian.AppendUint64(nil, inode))
}

func rename(tx nexusraft.Tx, path, to string) error {
	p, err := findTaken(tx, path)
	if err != nil {
		return err
	}
	q, err := find(tx, to)
	if err != nil {
		return err
	}
	for _, inode := range q.above {
		if inode == p.inode { // never a file's, which find has refused
			return refuse("%q is inside %q, which can't be moved into itself", to, path)
		}
	}
	switch {
	case q.taken && q.inode == p.inode:
		return nil // to where it is
	case q.taken && (!p.file || !q.file):
		return refuse("%q is there already: only a file takes the place of a file", to)
	case q.taken:
		if err := tx.Delete(inodeKey(q.inode)); err != nil {
			return err
		}
	}
	if err := tx.Delete(p.entry()); err != nil {
		return err
	}
	return link(tx, q, p.inode)
}

// findTaken finds what is at a path, other than the root.
func findTaken(r nexusraft.Reader, path string) (place, error) {
	p, err := find(r, path)
	switch {
	case err != nil:
		return place{}, err
	case p.name == "":
		return place{}, refuse("the root stays where it is")
	case !p.taken:
		return place{}, refuse("there is no %q", path)
	}
	return p, nil
}

func remove(tx nexusraft.Tx, path string) error {
	p, err := findTaken(tx, path)
	if err != nil {
		return err
	}
	for _, err := range tx.Scan(entryKey(p.inode, ""), entryKey(p.inode+1, "")) {
		if err != nil {
			return err
		}
		return refuse("%q is not empty", path) // the first entry is enough
	}
	if err := tx.Delete(inodeKey(p.inode)); err != nil {
		return err
	}
	return tx.Delete(p.entry())
}

// Entry is one name of a directory.
type Entry struct {
	Path    string
	File    bool
	Content string // a file's
}

// errFull ends a listing.
var errFull = errors.New("enough entries")

// List returns what is at the paths that begin with a prefix, at any depth, each directory before
// what is in it, names in the order of their bytes: limit entries at most. "/a/lo" begins "/a/log"
// and "/a/lost/x"; its directory, "/a", must be there.
func List(r nexusraft.Reader, prefix string, limit int) (entries []Entry, err error) {
	cut := strings.LastIndexByte(prefix, '/')
	if cut < 0 {
		return nil, refuse("the prefix %q does not begin with a slash", prefix)
	}
	dir, name := prefix[:cut], prefix[cut+1:]
	p := place{taken: true} // the root
	if dir != "" {
		if p, err = find(r, dir); err != nil {
			return nil, err
		}
	}
	if !p.taken || p.file {
		return nil, refuse("there is no directory %q", dir)
	}
	err = walk(r, p.inode, dir, name, func(e Entry) error {
		if len(entries) == limit {
			return errFull
		}
		entries = append(entries, e)
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return entries, err
}

// walk calls fn with the entries of a directory whose names begin with a prefix, and all that is in
// them.
func walk(r nexusraft.Reader, directory uint64, path, prefix string, fn func(Entry) error) error {
	for p, err := range r.Scan(entryKey(directory, prefix), entryKey(directory+1, "")) {
		if err != nil {
			return err
		}
		name, inode := string(p.Key[9:]), binary.BigEndian.Uint64(p.Value) // before r is used again
		if !strings.HasPrefix(name, prefix) {
			return nil
		}
		record, _, err := r.Get(inodeKey(inode))
		if err != nil {
			return err
		}
		e := Entry{Path: path + "/" + name, File: record[0] == 'f', Content: string(record[1:])}
		if err := fn(e); err != nil {
			return err
		}
		if e.File {
			continue
		}
		if err := walk(r, inode, e.Path, "", fn); err != nil {
			return err
		}
	}
	return nil
}
