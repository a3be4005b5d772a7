package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestAdvert(t *testing.T) {
	for _, release := range []string{"", "1", "0.2.0", "1.2.3-rc4+build.5", strings.Repeat("x", 32)} {
		b := AppendAdvert(nil, &Advert{Low: 1, High: 2, Release: release})
		if len(b)%4 != 0 || len(b) > 56 {
			t.Errorf("%q takes %d bytes", release, len(b))
		}
		for _, tail := range []string{"", "what a later release adds"} {
			low, high, got, ok := ParseAdvert(append(bytes.Clone(b), tail...))
			if !ok || low != 1 || high != 2 || string(got) != release {
				t.Errorf("%q came back as %d %d %q %v", release, low, high, got, ok)
			}
		}
		for i := range b {
			if i > 7+len(release) {
				break
			}
			if _, _, _, ok := ParseAdvert(b[:i]); ok {
				t.Errorf("%q: %d of %d bytes are taken for an advert", release, i, len(b))
			}
		}
	}
	if b := AppendAdvert(nil, &Advert{Release: strings.Repeat("x", 99)}); len(b) != 40 {
		t.Errorf("a long release takes %d bytes", len(b))
	}
	for _, bad := range []string{"", "CtSy\x00\x02\x01\x00", "CtSy\x01\x01\x01\x00", "CtSx\x00\x01\x01\x00", "CtSy\x00\x01\x01\x01\x07", "CtSy\x00\x01\x01\xffaaaa"} {
		if _, _, _, ok := ParseAdvert([]byte(bad)); ok {
			t.Errorf("%q is taken for an advert", bad)
		}
	}
}
