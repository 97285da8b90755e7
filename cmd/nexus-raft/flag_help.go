package main

// flagHelp are the help texts that are too long for the line of their flag.
var flagHelp = map[string]string{
	"askTimeout": "How long to try; for status, how long to wait for each node; for events, watch, lock and elect, " +
		"for the first answer.",
	"lockTTL": "How long it stays with a process that has died, or has lost its connections: seconds, or a duration.",
	"credentials": "File that proves the client's name and says which cluster to trust: a certificate, its key " +
		"and the cluster's CA, or the CA and an access token.",
	"accessTokenFile": "File that holds an access token, instead of the certificate or token in the credentials, " +
		"which need only the cluster's CA then. $NEXUS_RAFT_ACCESS_TOKEN may hold the token itself.",
	"jsonPairs": "Print JSON, one object per line. A key or value that is not valid UTF-8 is in the field " +
		"key_base64 or value_base64 instead of key or value.",

	"revokeZone": "Take only the role in this zone, given by its name or its ID, or the one for all zones; without " +
		"it, all roles and tokens.",
	"zoneName": "Its name: a lower-case letter, then lower-case letters, digits, dots, dashes and underscores, 64 at " +
		"most; nothing that could be an ID, which is hexadecimal.",
	"certOut": "New file for --credentials, which only its owner can read: the certificate, its key and the " +
		"cluster's CA.",
	"tokenOut": "New file for --credentials, which only its owner can read: the token and the CA of --credentials.",
	"tokenRole": "Role in which nodes may join with it, or in which a node of the cluster may get a new " +
		"certificate: member or witness.",
	"without": "Nodes not to wait for, separated by commas. They are left behind, and need a new join token " +
		"(--token-file) to come back.",

	"benchOp":        "What to measure: put, or get, which writes its keys first.",
	"benchEndpoints": "Members to ask, separated by commas; one connection each, with the clients spread over them.",
	"demoKill": "What to kill with SIGKILL while writers run: leader (and then the new leader), follower, " +
		"witness, each (one after the other) or none.",
	"demoDataDir":  "Where the three processes keep their data, empty or absent; by default a temporary directory.",
	"exportTree":   "Only the tree of this name, \"\" for the default tree; may be repeated. By default all trees.",
	"webhookState": "Keep the position in this file, and go on from it; --from counts only while there is no such file.",

	"compactionMode": "What is kept of old revisions: those of the last hours (periodic), or so many (revision).",
	"compactionRetention": "How much: hours, or a duration as in 90m; for revision a number. Default 1h; 0 keeps all " +
		"until somebody compacts.",

	"diskReserve": "How much of the disk stays free: below it, writes are refused and reads go on. 0 for none.",
	"maxAnswerBytes": "What large answers under way may hold of memory, together; a larger one is made alone. Callers " +
		"wait for their place.",
	"maxRequestBytes": "The largest request of etcd's API, at most 1536KiB.",
	"maxTxnOps": "How many compares a transaction may have, and operations in each branch, with those of transactions " +
		"inside it.",
	"watchProgress": "After how long without a change a watch of etcd's API that asks for it is told how far it is.",
	"snapshotBandwidth": "How many bytes a second snapshots to other members may take, at least 64KiB; 0 for no " +
		"limit.",
}
