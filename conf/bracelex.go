package conf

import "strings"

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenNewline
	tokenOpen
	tokenClose
	tokenUnclosed // text says what: quote, comment
)

type token struct {
	kind tokenKind
	text string
	line int
}

// braceLexer splits the brace form. Words end at blanks, braces and quotes;
// nothing else is special inside them.
type braceLexer struct {
	text  string
	pos   int
	line  int
	fresh bool // nothing but blanks on this line so far
}

func (x *braceLexer) next() token {
	for x.pos < len(x.text) {
		rest := x.text[x.pos:]
		switch {
		case rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r':
			x.pos++
		case rest[0] == '\n':
			t := token{kind: tokenNewline, line: x.line}
			x.skip(1)
			x.fresh = true
			return t
		case strings.HasPrefix(rest, "//") || rest[0] == '#' && x.fresh:
			x.pos += lineLength(rest)
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return token{kind: tokenUnclosed, text: "comment", line: x.line}
			}
			x.skip(end + 4)
		default:
			x.fresh = false
			return x.visible(rest)
		}
	}
	return token{kind: tokenEnd, line: x.line}
}

func (x *braceLexer) visible(rest string) token {
	t := token{line: x.line}
	switch rest[0] {
	case '{':
		t.kind = tokenOpen
		x.pos++
	case '}':
		t.kind = tokenClose
		x.pos++
	case '\'', '"':
		word, n, ok := escapedQuote(rest)
		if !ok {
			return token{kind: tokenUnclosed, text: "quote", line: x.line}
		}
		t.kind, t.text = tokenWord, word
		x.skip(n)
	default:
		n := strings.IndexAny(rest, wordEnds)
		if n < 0 {
			n = len(rest)
		}
		t.kind, t.text = tokenWord, rest[:n]
		x.pos += n
	}
	return t
}

const wordEnds = blanks + `{}'"`

// skip passes over n bytes and counts their lines.
func (x *braceLexer) skip(n int) {
	x.line += strings.Count(x.text[x.pos:x.pos+n], "\n")
	x.pos += n
}

func lineLength(s string) int {
	if n := strings.IndexByte(s, '\n'); n >= 0 {
		return n
	}
	return len(s)
}

var escapes = map[byte]byte{'\\': '\\', '"': '"', '\'': '\'', '/': '/', 'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f'}

// escapedQuote reads the quoted text at the start of s and returns the bytes
// read, both quotes included. An unknown escape stays as it is written.
func escapedQuote(s string) (word string, n int, closed bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == s[0]:
			return b.String(), i + 1, true
		case c == '\\' && i+1 < len(s) && escapes[s[i+1]] != 0:
			i++
			b.WriteByte(escapes[s[i]])
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

// firstWord returns the first bare word outside the comments of either form,
// empty if the text begins with something else or holds none.
func firstWord(text string) string {
	x := braceLexer{text: strings.TrimPrefix(text, byteOrderMark), line: 1, fresh: true}
	for {
		switch t := x.next(); t.kind {
		case tokenNewline:
		case tokenWord:
			return t.text
		default:
			return ""
		}
	}
}
