// Package proto holds the protocol's definition; api holds the Go code generated from it.
//
// After a change, run
//
//	go generate ./proto
//
// It needs nothing but Go: buf and both code generators are built from pinned versions.
package proto

//go:generate -command buf go run github.com/bufbuild/buf/cmd/buf@v1.75.0
//go:generate buf lint ..
//go:generate buf generate --template ../buf.gen.yaml --path nexusraft -o .. ..
//go:generate buf generate --template ../buf.gen.etcd.yaml --path v3lockpb --path v3electionpb -o .. ..
