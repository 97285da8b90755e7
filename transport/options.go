package transport

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// ProtocolVersion is the major version of the protocol between nodes; both sides must agree.
const ProtocolVersion = 1

// minorVersion is how far it has come since. The sides may differ in it: each leaves out what the
// other one's doesn't know. Version 1.1 brought lanes and pings, version 1.2 snapshots that go on
// where they broke off.
const minorVersion = 2

// Limits of the protocol, in bytes unless said otherwise. A receiver refuses what is over.
const (
	MaxMessageBytes         = 7 << 20   // one Raft message
	MaxCommandBytes         = 2 << 20   // one proposed command
	MaxVotes                = 4096      // votes in one request, a count
	MaxVoteContextBytes     = 1 << 10   // a vote's context
	MaxSnapshotMessageBytes = 1 << 20   // a snapshot header's message
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

// prefaceTimeout is how long a connection may take to say that it speaks HTTP/2. It says so
// unasked, and a server that stops waits for it: by default, two minutes.
const prefaceTimeout = 2 * time.Second

// maxStreams is how many calls and streams of one connection go on at once; more wait at their caller.
const maxStreams = 4096

// ServerOptions returns what a grpc.Server needs that peers connect to.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxRPCBytes),
		grpc.MaxSendMsgSize(maxRPCBytes),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.MaxConcurrentStreams(maxStreams),
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
