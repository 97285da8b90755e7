package program

import (
	"strings"

	"github.com/alecthomas/kong"
)

// flagHelp are the help texts that are too long for the line of their flag.
var flagHelp = map[string]string{
	"config": "YAML file with any of these flags: their names are its keys. Flags and environment " +
		"variables override it.",
	"join": "Members of the cluster to join, separated by commas. Only the first start needs it.",
	"joinTimeout": "How long to try while no address of --join answers; one that answers \"not yet\" is waited for, " +
		"however long.",
	"electionTimeout": "Silence of the leader after which another member stands for election: the same on " +
		"all nodes, and at least three round trips between them.",

	"tlsCert": "File of the node's certificate, PEM, its chain after it. It is read again when it changes.",
	"tlsKey":  "File of the certificate's private key, PEM. It is read again when it changes.",
	"tlsCA":   "File of the CAs to trust, PEM. It is read again when it changes.",
	"tls": "Encrypt and authenticate on a loopback address, too. Any other address does so without this " +
		"flag, and so does a directory that was served with TLS before.",
	"insecure": "Serve without encryption or authentication on an address that other machines can reach, or a " +
		"directory that was served with TLS before.",
	"token": "Join token, made with token create. Other users can see command lines: prefer --token-file, or " +
		"the environment.",
}

// HelpTexts gives each flag and argument whose help is "${name}" the text of that name. kong.Vars
// would do that too, but kong expands every variable for every flag, at each start of a program.
func HelpTexts(texts map[string]string) kong.Option {
	return kong.PostBuild(func(k *kong.Kong) error {
		helpNode(k.Model.Node, texts)
		return nil
	})
}

func helpNode(n *kong.Node, texts map[string]string) {
	for _, f := range n.Flags {
		helpValue(f.Value, texts)
	}
	for _, v := range n.Positional {
		helpValue(v, texts)
	}
	for _, child := range n.Children {
		helpNode(child, texts)
	}
}

func helpValue(v *kong.Value, texts map[string]string) {
	if name, ok := strings.CutPrefix(v.Help, "${"); ok {
		if text, ok := texts[strings.TrimSuffix(name, "}")]; ok {
			v.Help = text
		}
	}
}
