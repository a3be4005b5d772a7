package wire

import "testing"

// TestReportOfRangesOutOfOrder is not believed: each would be looked through anew.
func TestReportOfRangesOutOfOrder(t *testing.T) {
	for name, c := range map[string]struct {
		missing []Range
		want    bool
	}{
		"in order, over the wrap": {[]Range{{0xffffffff, 1}, {2, 2}, {5, 9}}, true},
		"one twice":               {[]Range{{1, 4}, {1, 4}}, false},
		"overlapping":             {[]Range{{1, 4}, {4, 6}}, false},
		"backwards":               {[]Range{{5, 6}, {1, 2}}, false},
	} {
		body := AppendReport(nil, &Report{To: 1, From: 0xfffffffe, Upto: 9, Missing: c.missing})
		if _, ok := ParseReport(body); ok != c.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
}
