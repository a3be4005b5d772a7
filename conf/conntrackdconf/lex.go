package conntrackdconf

import "strings"

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenOpen
	tokenClose
	tokenUnclosed // a quote
)

type token struct {
	kind tokenKind
	text string
	line int
}

// lexer splits the text into words and braces. # begins a comment wherever it
// stands outside quotes and paths.
type lexer struct {
	text string
	pos  int
	line int
}

const wordEnds = " \t\r\n{}\"#"

func (x *lexer) next() token {
	for x.pos < len(x.text) {
		rest := x.text[x.pos:]
		switch rest[0] {
		case '\n':
			x.line++
			x.pos++
		case ' ', '\t', '\r':
			x.pos++
		case '#':
			if n := strings.IndexByte(rest, '\n'); n >= 0 {
				x.pos += n
			} else {
				x.pos = len(x.text)
			}
		case '{':
			x.pos++
			return token{kind: tokenOpen, line: x.line}
		case '}':
			x.pos++
			return token{kind: tokenClose, line: x.line}
		case '"':
			return x.quoted(rest)
		default:
			return x.word(rest)
		}
	}
	return token{kind: tokenEnd, line: x.line}
}

func (x *lexer) quoted(rest string) token {
	n := strings.IndexAny(rest[1:], "\"\n")
	if n < 0 || rest[1+n] == '\n' {
		x.pos = len(x.text)
		return token{kind: tokenUnclosed, line: x.line}
	}
	x.pos += n + 2
	return token{kind: tokenWord, text: rest[1 : 1+n], line: x.line}
}

func (x *lexer) word(rest string) token {
	ends := wordEnds
	if rest[0] == '/' { // a path may hold a #
		ends = strings.TrimSuffix(wordEnds, "#")
	}
	n := strings.IndexAny(rest, ends)
	if n < 0 {
		n = len(rest)
	}
	x.pos += n
	return token{kind: tokenWord, text: rest[:n], line: x.line}
}
