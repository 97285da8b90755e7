package nexusraft

// Limits that decoding a membership enforces.
const (
	MaxMembers         = 64
	MaxMembershipBytes = 64 << 10
	MaxNameBytes       = 64
	MaxAddressBytes    = 256
)

// Limits of zones. Applying a command depends on them, the same on every replica: changing one
// changes what the commands that are in a log have done.
const (
	MaxZoneNameBytes    = 64
	MaxMachineNameBytes = 64
	MaxZones            = 100_000 // besides the root zone
)

// Limits of events, in bytes. Applying a command depends on them, the same on every replica:
// changing one changes what the commands that are in a log have done.
const (
	MaxEventNameBytes    = 256      // of a topic, and of a type
	MaxEventPayloadBytes = 2 << 20  // of a payload that a state machine publishes
	MaxCommandEventBytes = 16 << 20 // of all events of one command
)

// MaxEntryCommands is how many commands an entry of a zone's log carries at most: Command.Place is below
// it. Command.Order depends on it, so it stays as it is.
const MaxEntryCommands = 256

// Limits of what is asked of a node; more is ErrTooLarge.
const (
	MaxCommandBytes            = 2 << 20 // a proposed command
	MaxEventFilters            = 64      // topics of a Subscription, and types, a count
	MaxCertificateRequestBytes = 4 << 10 // a request for a certificate, PEM
	MaxRequesterNeeds          = 257     // needs of a Requester, a count
)
