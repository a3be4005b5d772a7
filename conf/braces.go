package conf

import "strings"

// loadBraces applies a file in the form of VyOS's config.boot. Blocks are
// flattened: the names of the open blocks and the words of a line make the
// path that a set command would name.
func (l *loader) loadBraces(name, text string) {
	p := braceReader{l: l, name: name}
	lex := braceLexer{text: strings.TrimPrefix(text, byteOrderMark), line: 1, fresh: true}
	for {
		t := lex.next()
		switch t.kind {
		case tokenWord:
			p.word(t)
		case tokenNewline:
			p.endLine()
		case tokenOpen:
			p.open(t.line)
		case tokenClose:
			p.close(t.line)
		case tokenUnclosed:
			p.fail(t.line, "unclosed "+t.text)
			return
		case tokenEnd:
			p.end()
			return
		}
	}
}

type braceReader struct {
	l      *loader
	name   string
	blocks []block
	words  []string // names of the open blocks, then the words of the line
	base   int      // how many of words belong to blocks
	line   int      // of the first word beyond base
}

type block struct {
	base  int // words before its name
	line  int
	empty bool
}

func (p *braceReader) fail(line int, message string) {
	p.l.problem(place{file: p.name, line: line}, "", message)
}

func (p *braceReader) word(t token) {
	if len(p.words) == p.base {
		p.line = t.line
	}
	p.words = append(p.words, t.text)
}

// endLine applies the words of a leaf.
func (p *braceReader) endLine() {
	if len(p.words) == p.base {
		return
	}
	if len(p.blocks) == 0 && isVerb(p.words[0]) {
		p.fail(p.line, "set commands and braces cannot be mixed in one file")
	} else {
		p.apply(p.line)
	}
	p.words = p.words[:p.base]
	p.used()
}

// apply lends p.words to the loader, which keeps the strings but not the slice.
func (p *braceReader) apply(line int) {
	p.l.apply(statement{words: p.words, at: place{file: p.name, line: line, braces: true}})
}

// used marks the innermost open block as one that needs no line of its own.
func (p *braceReader) used() {
	if n := len(p.blocks); n > 0 {
		p.blocks[n-1].empty = false
	}
}

func (p *braceReader) open(line int) {
	if len(p.words) == p.base {
		p.fail(line, "{ without a name on its line")
	}
	p.used()
	p.blocks = append(p.blocks, block{base: p.base, line: line, empty: true})
	p.base = len(p.words)
}

func (p *braceReader) close(line int) {
	p.endLine()
	n := len(p.blocks)
	if n == 0 {
		p.fail(line, "} without {")
		return
	}
	b := p.blocks[n-1]
	if b.empty {
		p.apply(b.line)
	}
	p.blocks, p.base, p.words = p.blocks[:n-1], b.base, p.words[:b.base]
}

func (p *braceReader) end() {
	p.endLine()
	if n := len(p.blocks); n > 0 {
		p.fail(p.blocks[n-1].line, "unclosed {")
	}
}
