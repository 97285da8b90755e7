// Package demo shows a zone of two members and a witness at work on a real directory: it
// starts the three as processes of their own, stores a record for every file, kills them
// with SIGKILL while writers go on, and then proves that nothing that was acknowledged is
// lost.
//
// Reading the source: Run is the story; cluster keeps the three processes; walker and
// writers make the load; ledger remembers what was acknowledged and checks what is found;
// verify asks the cluster for it.
package demo
