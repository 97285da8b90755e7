package raftlog

import (
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// outline is what memory holds of the whole log: the term and the encoded size of every
// entry, but no payload. Raft asks for terms all the time, and they never cost a read.
type outline struct {
	// runs are the log's stretches of one term, ascending in both fields. There is always
	// at least one: runs[0] begins at the compacted entry, whose index is first-1.
	runs []run

	sizes []uint32 // of the entry at first()+i, in bytes
	bytes int64    // sum of sizes
}

// run says that from an index on, to the next run or the log's end, entries are of a term.
type run struct {
	from nexusraft.Index
	term nexusraft.Term
}

// newOutline returns the outline of an empty log that begins after the given entry.
func newOutline(compacted nexusraft.Index, term nexusraft.Term) outline {
	return outline{runs: []run{{compacted, term}}}
}

func (o *outline) first() nexusraft.Index { return o.runs[0].from + 1 }

func (o *outline) last() nexusraft.Index {
	return o.runs[0].from + nexusraft.Index(len(o.sizes))
}

func (o *outline) lastTerm() nexusraft.Term { return o.runs[len(o.runs)-1].term }

// term returns the term of the entry at index, which is in [first()-1, last()].
func (o *outline) term(index nexusraft.Index) nexusraft.Term {
	return o.runs[o.runAt(index)].term
}

// runAt returns the position of the run that holds index.
func (o *outline) runAt(index nexusraft.Index) int {
	i, exact := slices.BinarySearchFunc(o.runs, index, func(r run, index nexusraft.Index) int {
		switch {
		case r.from < index:
			return -1
		case r.from > index:
			return 1
		}
		return 0
	})
	if exact {
		return i
	}
	return i - 1
}

// append adds the entry at last()+1; its term is at least lastTerm().
func (o *outline) append(term nexusraft.Term, size int) {
	if term != o.lastTerm() {
		o.runs = append(o.runs, run{o.last() + 1, term})
	}
	o.sizes = append(o.sizes, uint32(size))
	o.bytes += int64(size)
}

// truncate removes the entries from index on; index is at least first().
func (o *outline) truncate(index nexusraft.Index) {
	if index > o.last() {
		return
	}
	keep := index - o.first()
	o.bytes -= sum(o.sizes[keep:])
	o.sizes = o.sizes[:keep]
	o.runs = o.runs[:o.runAt(index-1)+1]
}

// compact removes the entries up to and including index, which is in [first()-1, last()].
func (o *outline) compact(index nexusraft.Index) {
	gone := index + 1 - o.first()
	o.bytes -= sum(o.sizes[:gone])
	o.sizes = slices.Clone(o.sizes[gone:]) // gives the memory back
	o.runs = slices.Clone(o.runs[o.runAt(index):])
	o.runs[0].from = index
}

// fit returns the end of the longest range from lo on, not beyond hi, whose sizes sum up to
// at most limit; it holds at least one entry. lo < hi, both within the log.
func (o *outline) fit(lo, hi nexusraft.Index, limit uint64) nexusraft.Index {
	var total uint64
	for i := lo; i < hi; i++ {
		total += uint64(o.sizes[i-o.first()])
		if total > limit && i > lo {
			return i
		}
	}
	return hi
}

func sum(sizes []uint32) int64 {
	var total int64
	for _, s := range sizes {
		total += int64(s)
	}
	return total
}
