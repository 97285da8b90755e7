package node

import (
	"reflect"
	"testing"
)

// A handler that is forgotten would be a service that a member lacks without a word.
func TestMemberHasAllHandlers(t *testing.T) {
	n := idleNode(t, false)
	for _, handlers := range []any{n.peerHandlers(), n.clientHandlers()} {
		v := reflect.ValueOf(handlers)
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if witnesses := name == "HostZones"; v.Field(i).IsZero() != witnesses { // a member goes by its own state
				t.Errorf("%T: %s is set: %t, want %t", handlers, name, witnesses, !witnesses)
			}
		}
	}
}
