// Package rpc is every service of ours that clients call, over what a node does for them: events,
// the operators' part of zones, access, join tokens, the rotation of the authority. A node registers
// them itself, with Register. Package etcd, below, has etcd's services, over kv.
//
// The types are the root package's; what is converted is converted in package wire. That is a leaf
// of its own, and no part of this one, since clients and the witness link it, and no servers.
package rpc

import (
	"google.golang.org/grpc"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// ClientHandlers are what a node does for its clients. Their methods are called from many goroutines
// at once, and errors reach the caller as the sentinels of the root package that they match.
type ClientHandlers struct {
	Events   EventHandler
	Access   Granter
	Tokens   Issuer
	Rotation Rotator
}

// Register adds the services to a gRPC server, all but Zones, which package transport registers: the
// nodes themselves call a method of that.
func Register(r grpc.ServiceRegistrar, h ClientHandlers) {
	pb.RegisterEventStreamServer(r, &events{handler: h.Events})
	pb.RegisterAccessServer(r, &access{granter: h.Access})
	pb.RegisterTokensServer(r, &tokens{issuer: h.Tokens})
	pb.RegisterRotationServer(r, &rotation{rotator: h.Rotation})
}
