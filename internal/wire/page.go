package wire

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// PageHeader is the metadata with which a reader of pages asks for one: any value but the empty
// one. The answer then counts nothing, and may end before its limit; nodes of older releases
// ignore it.
const PageHeader = "nexus-page"

// WantsPage reports whether a call's metadata ask for a page.
func WantsPage(ctx context.Context) bool {
	values := metadata.ValueFromIncomingContext(ctx, PageHeader)
	return len(values) > 0 && values[0] != ""
}
