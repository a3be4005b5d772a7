package conf

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one thing wrong with, or worth saying about, the configuration.
type Problem struct {
	File    string // empty: no single line is at fault
	Line    int    // from 1
	Path    string // "service conntrack-sync interface eth0 port"; empty: the text could not be read
	Message string
}

// Error returns the problem as one line,
// "<file>:<line>: service conntrack-sync <path>: <message>"; what is not known
// is left out.
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(oneLine(p.File))
		b.WriteByte(':')
		if p.Line > 0 {
			b.WriteString(strconv.Itoa(p.Line))
			b.WriteByte(':')
		}
		b.WriteByte(' ')
	}
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// String is Error.
func (p Problem) String() string { return p.Error() }

// place is where in the files a word stands.
type place struct {
	file   string
	line   int
	braces bool
}

func (at place) problem(path, message string) Problem {
	return Problem{File: at.file, Line: at.line, Path: path, Message: message}
}

const shownBytes = 80 // of an operator's word in a message

// shown makes a word of a file fit for a one-line message.
func shown(word string) string {
	if len(word) > shownBytes {
		cut := shownBytes
		for cut > shownBytes-utf8.UTFMax && !utf8.RuneStart(word[cut]) {
			cut--
		}
		word = word[:cut] + "..."
	}
	return oneLine(word)
}

func oneLine(s string) string {
	if printable(s) {
		return s
	}
	return strconv.Quote(s)
}

// printable reports whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// pathText is the full path of words below service conntrack-sync.
func pathText(words []string) string {
	var b strings.Builder
	b.WriteString("service conntrack-sync")
	for _, w := range words {
		b.WriteByte(' ')
		b.WriteString(shown(w))
	}
	return b.String()
}
