package main

import (
	"context"
	"slices"
	"testing"
	"time"

	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// Tools that know nothing of us find the services and describe their messages, as grpcurl's list
// and describe do.
func TestReflection(t *testing.T) {
	m := serveSecurely(t)
	m.grant("reader", 0, nexusraft.AccessRead)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(m.as(pki.Subject{Client: "reader"},
		"").conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var services []string
	list := ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	})
	for _, s := range list.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	for _, want := range []string{
		"etcdserverpb.KV", "nexusraft.v1.Access", "nexusraft.v1.Cluster",
		"nexusraft.v1.EventStream", "grpc.health.v1.Health",
	} {
		if !slices.Contains(services, want) {
			t.Errorf("the services %v lack %s", services, want)
		}
	}
	for symbol, method := range map[string]string{"etcdserverpb.KV": "Range", "nexusraft.v1.EventStream": "Subscribe"} {
		resp := ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
		})
		var methods []string
		for _, b := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(b, file); err != nil {
				t.Fatal(err)
			}
			for _, s := range file.GetService() {
				for _, x := range s.GetMethod() {
					methods = append(methods, x.GetName())
				}
			}
		}
		if !slices.Contains(methods, method) {
			t.Errorf("the description of %s has the methods %v, want %s among them; %v", symbol, methods, method,
				resp.GetErrorResponse())
		}
	}
}
