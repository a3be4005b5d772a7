package conf

import "strings"

// loadSetLines applies a file of set, delete and comment commands, one a line.
func (l *loader) loadSetLines(name, text string) {
	line := 0
	for s := range strings.Lines(strings.TrimPrefix(text, byteOrderMark)) {
		line++
		l.loadSetLine(place{file: name, line: line}, s)
	}
}

func (l *loader) loadSetLine(at place, line string) {
	words, closed := splitLine(line)
	switch {
	case len(words) == 0 && closed:
		return
	case !closed && !concerns(words):
		return // outside our tree nothing is an error
	case !closed:
		l.problem(at, "", "unclosed quote")
		return
	case !isVerb(words[0]):
		l.problem(at, "", "unknown command "+shown(words[0])+", lines begin with set, delete or comment")
		return
	case len(words) == 1:
		l.problem(at, "", words[0]+" requires a path")
		return
	}
	if words[0] != "comment" {
		l.apply(statement{remove: words[0] == "delete", words: words[1:], at: at})
	}
}

// concerns reports whether a command of which only the first words are known
// may be about our tree.
func concerns(words []string) bool {
	if len(words) == 0 || !isVerb(words[0]) {
		return true
	}
	path := words[1:]
	return hasPrefix(path, ours) || hasPrefix(ours, path)
}

// splitLine splits a command as VyOS's shell does: quotes may stand anywhere
// in a word, '...' is literal, "..." knows \" and \\, elsewhere a backslash
// takes the next character as it is, # at the start of a word begins a
// comment. closed is false when the line ends inside quotes; words then holds
// the words before.
func splitLine(line string) (words []string, closed bool) {
	for rest := line; ; {
		rest = strings.TrimLeft(rest, blanks)
		if rest == "" || rest[0] == '#' {
			return words, true
		}
		word, after, ok := shellWord(rest)
		if !ok {
			return words, false
		}
		words, rest = append(words, word), after
	}
}

const (
	blanks        = " \t\r\n"
	byteOrderMark = "\ufeff"
)

func shellWord(s string) (word, rest string, closed bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\r', '\n':
			return b.String(), s[i:], true
		case '\'':
			end := strings.IndexByte(s[i+1:], '\'')
			if end < 0 {
				return "", "", false
			}
			b.WriteString(s[i+1 : i+1+end])
			i += end + 1
		case '"':
			n, ok := doubleQuoted(&b, s[i+1:])
			if !ok {
				return "", "", false
			}
			i += n
		case '\\':
			if i+1 < len(s) && s[i+1] != '\n' {
				i++
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", true
}

// doubleQuoted appends the text up to the closing quote to b and returns the
// number of bytes read, the quote included.
func doubleQuoted(b *strings.Builder, s string) (n int, closed bool) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return i + 1, true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
		b.WriteByte(s[i])
	}
	return 0, false
}
