package transport

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Each method of Zones, but for Propose, is for Operators. Without them, and on a witness, it says so; a
// method that was forgotten would say that it is unknown.
func TestZonesWithoutOperators(t *testing.T) {
	addr, _ := serveAt(t, "127.0.0.1:0", NewServer(as(identityB), Handlers{Peer: &fakeNode{}}))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, m := range pb.Zones_ServiceDesc.Methods {
		err := conn.Invoke(t.Context(), "/"+pb.Zones_ServiceDesc.ServiceName+"/"+m.MethodName, &emptypb.Empty{},
			&emptypb.Empty{})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "this node is a witness") {
			t.Errorf("%s: got %v, want Unimplemented, and why", m.MethodName, err)
		}
	}
}
