package wire

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestRoutes: words are read as they were written, and a body that is no row of
// words is refused.
func TestRoutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var body []byte
		want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) RouteWord {
			return RouteWord{Group: rapid.Uint32().Draw(t, "group"), Settled: rapid.Bool().Draw(t, "settled"),
				Raised: rapid.Bool().Draw(t, "raised"), Generation: rapid.Uint32().Draw(t, "generation")}
		}), 0, 5).Draw(t, "words")
		for _, w := range want {
			body = AppendRouteWord(body, w)
		}
		if got, ok := ParseRoutes(body); !ok || !slices.Equal(got, want) {
			t.Fatalf("%v, %v, want %v", got, ok, want)
		}
		if len(body) > 0 {
			if got, ok := ParseRoutes(body[:len(body)-1]); ok {
				t.Fatalf("a short body is read as %v", got)
			}
		}
	})
}
