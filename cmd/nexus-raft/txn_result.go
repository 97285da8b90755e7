package main

import (
	"bufio"
	"fmt"
	"io"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// txnOut is a transaction's result as JSON.
type txnOut struct {
	Succeeded bool               `json:"succeeded"`
	Revision  nexusraft.Revision `json:"revision"`
	Copies    int                `json:"copies,omitempty"`
	Results   []requestOut       `json:"results"`
}

// requestOut is what one request has come to.
type requestOut struct {
	Request string `json:"request"` // put, get or del
	Pairs   []pair `json:"pairs,omitempty"`
	Count   *int64 `json:"count,omitempty"`   // of a get
	Deleted *int64 `json:"deleted,omitempty"` // of a del
	More    bool   `json:"more,omitempty"`
}

func newTxnOut(ran []txnRequest, r client.TxnResult) txnOut {
	out := txnOut{r.Succeeded, r.Revision, r.Copies, []requestOut{}}
	for i, result := range r.Results {
		one := requestOut{Request: ran[i].verb, More: result.More}
		for _, kv := range result.Pairs {
			p := newPair(kv)
			if keysOnly(ran[i]) {
				p.Value = nil
			}
			one.Pairs = append(one.Pairs, p)
		}
		switch one.Request {
		case "get":
			one.Count = &result.Count
		case "del":
			one.Deleted = &result.Count
		}
		out.Results = append(out.Results, one)
	}
	return out
}

func keysOnly(r txnRequest) bool {
	g, ok := r.operation.(client.Get)
	return ok && g.KeysOnly
}

// printTxn prints which block has run, and then, each after a blank line, what its requests came to.
func printTxn(w io.Writer, ran []txnRequest, r client.TxnResult) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, map[bool]string{true: "SUCCESS", false: "FAILURE"}[r.Succeeded], ", revision ", r.Revision)
	if r.Copies > 0 {
		fmt.Fprint(b, ", data copies ", r.Copies)
	}
	fmt.Fprintln(b)
	for i, result := range r.Results {
		fmt.Fprintln(b)
		printRequest(b, ran[i], result)
	}
	return b.Flush()
}

func printRequest(w io.Writer, request txnRequest, r client.OperationResult) {
	switch request.verb {
	case "put":
		fmt.Fprintln(w, "OK")
	case "del":
		fmt.Fprintln(w, "deleted", r.Count)
	case "get":
		if request.operation.(client.Get).CountOnly {
			fmt.Fprintln(w, "count", r.Count)
		}
	}
	for _, kv := range r.Pairs {
		if keysOnly(request) {
			fmt.Fprintln(w, printable(string(kv.Key)))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", printable(string(kv.Key)), printable(string(kv.Value)))
	}
}
