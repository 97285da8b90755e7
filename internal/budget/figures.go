package budget

import "time"

// Headers. One entry of a few bytes on the wire may stand for kilobytes, so it is the list that
// is bounded, as HTTP/2 counts it: the bytes of names and values, and 32 for each field.
const (
	HeaderListBytes        = 16 << 10 // of one request; ours have below 1 KiB
	AnswerHeaderListBytes  = 64 << 10 // of one answer, which may hold an error twice: as text and with its details
	HeaderBytesOfPrincipal = 4 << 20  // of one principal's calls under way
	HeaderBytes            = 16 << 20 // of all calls under way, and as many of those of nodes
)

// Calls and streams at a time. An anonymous caller has neither a certificate that is believed nor
// an access token that is known; it may call health and Join.
const (
	StreamsOfConnection = 4096  // which clients are told; they wait with more
	StreamsOfPrincipal  = 4096  // of a name, a node, or, without TLS, an address
	MaxStreams          = 16384 // of all together, and as many of nodes

	AnonymousStreamsOfConnection = 16  // a connection with more is closed
	AnonymousRefusals            = 64  // an anonymous caller's connection that was refused more often is closed
	AnonymousCallsOfAddress      = 32  // Check and Join
	AnonymousCalls               = 256 // the same of all anonymous callers
	AnonymousWatchesOfAddress    = 8   // Health.Watch, which has no end
	AnonymousWatches             = 128 // the same of all anonymous callers, so that they take no place from Check and Join

	SubscriptionsOfPrincipal = 512  // half of all, so that one reader can't take all
	MaxSubscriptions         = 1024 // one goroutine and one message each
)

// Watches of etcd's API. A stream of them that its client does not read holds what gRPC keeps for it, 64 KiB, and one
// answer; each watch counts its keys and WatchOverhead, from when it is asked for.
const (
	WatchStreamsOfPrincipal = 2048
	MaxWatchStreams         = 4096
	WatchOverhead           = 512      // a watch in memory, besides its keys
	WatchBytesOfPrincipal   = 32 << 20 // 60,000 watches with short keys
	WatchBytes              = 64 << 20 // of all together
)

// Requests that are being read. The bytes count from the wire until the message is whole.
const (
	RequestTimeout          = 30 * time.Second // for a request to arrive: 2 MiB over a link of 1 Mbit/s take half of it
	AnonymousRequestTimeout = 5 * time.Second  // Check and Join are below 8 KiB
	// of a principal or, without TLS, an address: 64 of the largest commands at once
	RequestBytesOfCaller    = 128 << 20
	RequestBytes            = 256 << 20        // of all together, and as much of those of nodes
	AnonymousBurstBytes     = 64 << 10         // what an anonymous caller's connection may send at once
	AnonymousBytesPerSecond = 16 << 10         // and what it may send for good
	WriteTimeout            = 20 * time.Second // for 64 KiB of answers to be taken; slower readers are closed
)

// What answers hold of a node's memory at once, from before they are made until they are on the
// wire: twice their size while they are made, as pairs and encoded. A larger one is alone.
const (
	AnswerBytesTotal = 256 << 20 // unless the node is told another one
	AnswerBytesShare = 128 << 20 // of one principal; half of the total, whatever that is
	AnswerBytesFree  = 16 << 10  // an answer, or a message of a stream, of no more counts for nothing
	// for which a list of access, of tokens or of zones counts while it is made: 4096 names with 64 roles
	ListBytes  = 32 << 20
	AnswerWait = 5 * time.Second // of a caller without a deadline for a place; then it is refused
	// that a caller with a deadline is refused before it, or a tenth of its time
	AnswerDeadlineMargin = 200 * time.Millisecond
	AnswerSendTime       = 30 * time.Second // for an answer to be read by its caller, and besides
	AnswerBytesPerSecond = 512 << 10        // a second for so many
)

// Scans. After so many pairs, or so many bytes of them, a scan looks again whether its caller has
// gone, and waits for its turn.
const (
	ScanPairs   = 1024
	ScanBytes   = 256 << 10
	ScansAtOnce = 16 // that read; each holds blocks of tables, which are as large as the largest value at least
)

// What writes under way may make of what is there: a Put with the previous value counts as the
// largest one, whatever is there when it is applied, a Put that keeps the value as SameValueBytes, a
// DeleteRange of a range as DeleteRangeBytes. They hold it from before they are proposed until they
// are applied. All zones wait while they are.
const (
	EffectBytesTotal = 24 << 20
	EffectBytesShare = 12 << 20 // of one principal
	SameValueBytes   = 6 << 20  // the largest value: read, put into a record, written, and answered
	DeleteRangeBytes = 8 << 20  // up to 1000 keys of 4 KiB, with an event for each
)

// Connections at a time. Each costs about 50 KiB. Where descriptors are few there are fewer,
// in the same proportions: see PlacesFor.
const (
	MaxConnections       = 2048
	ConnectionsOfWitness = 256 // it has a few peers, and checks of its health
	ConnectionsOfNodes   = 32  // of all, kept for nodes of the cluster

	HandshakeTimeout = 2 * time.Second  // TLS and the first words of HTTP/2
	IdleTimeout      = 60 * time.Second // an anonymous caller's connection without a call is closed once another one comes

	DescriptorsOfProgram = 24  // standard streams, the listener, polling, logs, locks
	DescriptorsOfCalls   = 16  // connections that this node makes
	DescriptorsOfEngine  = 40  // logs, manifest, directories, tables being written, a backup
	TablesOpenLeast      = 32  // tables that the store keeps open at least
	TablesOpen           = 500 // and at most
	DescriptorsLeast     = 160 // a process with fewer does not start
)
