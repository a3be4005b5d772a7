package conf

// target is where in the schema the words of a statement lead.
type target struct {
	words []string // canonical spelling
	rows  []*row   // one per word; nil for the value of a leaf or multi
	end   *row     // of the last node named
}

// hasValue reports whether the last word is the value of a leaf or multi.
func (t target) hasValue() bool { return t.rows[len(t.rows)-1] == nil }

// needsValue reports whether the words end where one more is due.
func (t target) needsValue() bool {
	return t.end.kind == tag || (t.end.kind == leaf || t.end.kind == multi) && !t.hasValue()
}

// fault says why words lead nowhere.
type fault struct {
	depth   int  // words before the one at fault
	value   bool // the path is right, the value is not
	message string
}

func resolve(words []string) (target, *fault) {
	t := target{end: rowOf[""]}
	for i, w := range words {
		r := t.end
		if r.value != nil && (i == 0 || t.rows[i-1] != nil) {
			canonical, err := r.value(w)
			if err != nil {
				return t, &fault{depth: i, value: true, message: err.Error()}
			}
			t.words = append(t.words, canonical)
			if r.kind == tag {
				t.end = r.below(canonical)
				t.rows = append(t.rows, t.end)
			} else {
				t.rows = append(t.rows, nil)
			}
			continue
		}
		next := r.below(w)
		if next == nil || r.value != nil {
			return t, &fault{depth: i, message: "Configuration path: " + pathText(words[:i]) + " [" + shown(w) + "] is not valid"}
		}
		t.words, t.rows, t.end = append(t.words, w), append(t.rows, next), next
	}
	return t, nil
}
