package authz

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// roleFor returns the role that one request asks for by its method's permission.
func roleFor(p nexusraft.Permission, req any) nexusraft.AccessRole {
	m, ok := req.(proto.Message)
	if ok && p.Reading != nexusraft.AccessNone && changesNothing(m.ProtoReflect()) {
		return p.Reading
	}
	return p.Role
}

// changesNothing reports whether a request is a transaction of etcd's API that has nothing but ranges. A transaction
// inside it counts as a change whatever it has, as it does where it is run. The message is known by its names, so that
// what looks at access links no etcd.
func changesNothing(m protoreflect.Message) bool {
	if m.Descriptor().FullName() != "etcdserverpb.TxnRequest" {
		return false
	}
	for _, name := range [...]protoreflect.Name{"success", "failure"} {
		branch := m.Descriptor().Fields().ByName(name)
		if branch == nil || !onlyRanges(m.Get(branch).List()) {
			return false
		}
	}
	return true
}

func onlyRanges(ops protoreflect.List) bool {
	for i := range ops.Len() {
		op := ops.Get(i).Message()
		request := op.Descriptor().Oneofs().ByName("request")
		if request == nil {
			return false
		}
		if is := op.WhichOneof(request); is == nil || is.Name() != "request_range" {
			return false
		}
	}
	return true
}
