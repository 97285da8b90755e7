package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/kv"
)

// maxScriptBytes is above what any transaction needs that a node takes, each byte of it written as \x00.
const maxScriptBytes = 8 * kv.MaxRequestBytes

// txnBlocks are the parts of a transaction's text, in this order, each ended by a blank line.
var txnBlocks = [...]string{"compares", "success requests (get, put, del)", "failure requests (get, put, del)"}

// txnScript is a transaction as it was read.
type txnScript struct {
	compares []client.Compare
	branches [2][]txnRequest // if the compares hold, and if not
}

// txn returns what is to be run.
func (s txnScript) txn() client.Txn {
	t := client.Txn{If: s.compares}
	for _, r := range s.branches[0] {
		t.Then = append(t.Then, r.operation)
	}
	for _, r := range s.branches[1] {
		t.Else = append(t.Else, r.operation)
	}
	return t
}

// scriptReader reads the text of a transaction.
type scriptReader struct {
	in      *bufio.Reader
	limit   *io.LimitedReader // what in reads
	line    int               // how many were read
	partial bool              // the last of them does not end with a line break
	talk    io.Writer         // where each block is asked for, and what is wrong with a line is said; nil: nobody is there
	script  txnScript
}

// readScript reads a transaction. If there is somebody to talk to, a line that is wrong is asked for again; otherwise
// it ends with an error that names the line.
func readScript(in io.Reader, talk io.Writer) (txnScript, error) {
	r := &scriptReader{limit: &io.LimitedReader{R: in, N: maxScriptBytes}, talk: talk}
	r.in = bufio.NewReader(r.limit)
	for block, name := range txnBlocks {
		if talk != nil {
			fmt.Fprintf(talk, "%s:\n", name)
		}
		if err := r.block(block); err != nil {
			return txnScript{}, fmt.Errorf("line %d: %w", r.line, err)
		}
	}
	if talk == nil {
		if err := r.end(); err != nil {
			return txnScript{}, fmt.Errorf("line %d: %w", r.line, err)
		}
	}
	return r.script, nil
}

// block reads one up to the blank line that ends it. The last one may end with the file.
func (r *scriptReader) block(block int) error {
	wrong := 0 // a line that is to be given again; 0: none is
	for {
		line, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			return r.ended(block)
		case err != nil:
			return err
		case line == "" && wrong > 0: // a transaction without it would be another one
			fmt.Fprintf(r.talk, "line %d is missing: give it again, and then the blank line, or interrupt\n", wrong)
			continue
		case line == "":
			return nil
		}
		if err = r.take(block, line); err == nil {
			wrong = 0
			continue
		}
		if r.talk == nil {
			return err
		}
		wrong = r.line
		fmt.Fprintf(r.talk, "line %d is left out: %v\n", r.line, err)
	}
}

// next returns the next line without the space around it.
func (r *scriptReader) next() (string, error) {
	line, err := r.in.ReadString('\n')
	if errors.Is(err, io.EOF) && r.limit.N <= 0 {
		return "", fmt.Errorf("the text has %d bytes or more: no node takes such a transaction, so split it", maxScriptBytes)
	}
	if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
		return "", err
	}
	r.line++
	r.partial = err != nil
	return strings.TrimSpace(line), nil
}

// ended is why a block can't end with the file, if it can't: a file that was cut off is not taken for a
// transaction that is shorter.
func (r *scriptReader) ended(block int) error {
	switch {
	case r.talk != nil:
		return fmt.Errorf("the input ends in the %s, before their blank line: nothing was written", txnBlocks[block])
	case block == len(txnBlocks)-1 && !r.partial:
		return nil
	case block == len(txnBlocks)-1:
		return fmt.Errorf("the %s end without a line break: expected one, or a blank line", txnBlocks[block])
	}
	return fmt.Errorf("the text ends in the %s: expected a blank line, and then the %s, if only with a blank line for "+
		"none", txnBlocks[block], txnBlocks[block+1])
}

func (r *scriptReader) take(block int, line string) error {
	if block == 0 {
		c, err := parseCompare(line)
		if err == nil {
			r.script.compares = append(r.script.compares, c)
		}
		return err
	}
	verb, o, err := parseRequest(line)
	if err == nil {
		b := &r.script.branches[block-1]
		*b = append(*b, txnRequest{r.line, verb, o})
	}
	return err
}

// end holds that nothing follows.
func (r *scriptReader) end() error {
	for {
		line, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case line != "":
			return fmt.Errorf("%.64q: expected the end, as the %s have ended with a blank line", line,
				txnBlocks[len(txnBlocks)-1])
		}
	}
}
