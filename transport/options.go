package transport

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// ProtocolVersion is the major version of the protocol between nodes; both sides must agree.
const ProtocolVersion = 1

// MinorVersion is how far it has come since: what this program speaks. The sides may differ in it: each
// leaves out what the other one's doesn't know. Version 1.1 brought lanes and pings, version 1.2
// snapshots that go on where they broke off, version 1.3 join tokens that are proved and not told,
// version 1.4 zones besides the root zone, which a cluster has once all of its nodes speak it, version 1.5 the
// promise of voters on which leases rest, version 1.6 log entries of several commands, which a cluster has
// likewise once all of its nodes speak it, version 1.7 questions to a zone's leader.
const MinorVersion = 7

// Limits of the protocol, in bytes unless said otherwise. A receiver refuses more.
const (
	maxMessageBytes         = 7 << 20   // one Raft message
	MaxVotes                = 4096      // votes in one request, a count
	maxVoteContextBytes     = 1 << 10   // a vote's context
	maxSnapshotMessageBytes = 1 << 20   // a snapshot header's message
	MaxChunkBytes           = 256 << 10 // one chunk of a snapshot

	maxRPCBytes      = 8 << 20  // any gRPC message
	maxFrameMessages = 8192     // messages in one frame, a count
	frameClassBytes  = 64 << 10 // what a sender puts into a frame of each class, unless one message is bigger
	maxWhyBytes      = 1 << 10  // a vote result's reason
)

// A ping each 10 s of silence and 20 s to answer it suits wide-area links, where seconds of
// silence are no sign of death. Elections don't wait for it: Raft has its own timeouts.
const (
	pingAfter   = 10 * time.Second
	pingTimeout = 20 * time.Second
)

// dialTimeout bounds an attempt to connect with DialOptions.
const dialTimeout = 3 * time.Second

// LimitedServerOptions returns what a grpc.Server needs that anybody may connect to: ServerOptions, with
// which it keeps the limits and, if t is not nil, speaks TLS.
func LimitedServerOptions(limits *mtls.Limits, t *mtls.TLS) []grpc.ServerOption {
	return append(ServerOptions(), limits.ServerOptions(t)...)
}

// ServerOptions returns what a grpc.Server needs that peers connect to.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxRPCBytes),
		grpc.MaxSendMsgSize(maxRPCBytes),
		grpc.MaxHeaderListSize(budget.HeaderListBytes),
		grpc.ConnectionTimeout(budget.HandshakeTimeout),
		grpc.MaxConcurrentStreams(budget.StreamsOfConnection),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             pingAfter / 2, // a client that is on time is never told off
			PermitWithoutStream: true,
		}),
	}
}

// DialOptions returns what a connection to such a server needs. It is not encrypted, and
// never goes through a proxy of the environment.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(budget.AnswerHeaderListBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                pingAfter,
			Timeout:             pingTimeout,
			PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxRPCBytes),
			grpc.MaxCallSendMsgSize(maxRPCBytes),
		),
	}
}
