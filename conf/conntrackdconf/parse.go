package conntrackdconf

import "strings"

// statement is a setting, with its block if it has one.
type statement struct {
	name  string // in lower case
	shown string // as written
	args  []string
	line  int
	block []statement
}

func (s *statement) arg() string {
	if len(s.args) == 0 {
		return ""
	}
	return s.args[0]
}

// single are the settings that take one word. Lines mean nothing to conntrackd,
// so the words of these are counted; what is not named here ends with its line
// or with a brace.
var single = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`
		ackwindowsize cachetimeout checksum committimeout disableexternalcache disableinternalcache
		errorqueuelength eventiterationlimit group hashlimit hashsize interface ipv4_address
		ipv4_destination_address ipv4_interface ipv6_address ipv6_destination_address ipv6_interface
		lockfile logfile netlinkbuffersize netlinkbuffersizemaxgrowth netlinkeventsreliable
		netlinkoverrunresync nice path pollsecs port purgetimeout rcvsocketbuffer refreshtime
		resendqueuesize sndsocketbuffer startupresync syslog systemd tcpwindowtracking`) {
		m[w] = true
	}
	return m
}()

type parser struct {
	lex  lexer
	tok  token
	fail func(line int, message string)
}

// parse reads the statements of a text; what it cannot read it reports and
// skips.
func parse(text string, fail func(line int, message string)) []statement {
	p := parser{lex: lexer{text: strings.TrimPrefix(text, "\ufeff"), line: 1}, fail: fail}
	p.advance()
	var all []statement
	for {
		all = append(all, p.statements(0)...)
		if p.tok.kind != tokenClose {
			return all
		}
		p.fail(p.tok.line, "} without {")
		p.advance()
	}
}

func (p *parser) advance() {
	p.tok = p.lex.next()
	if p.tok.kind == tokenUnclosed {
		p.fail(p.tok.line, "unclosed quote")
		p.tok.kind = tokenEnd
	}
}

// maxDepth of blocks; conntrackd's own have three.
const maxDepth = 16

// statements reads up to the end of the block or of the text.
func (p *parser) statements(depth int) (all []statement) {
	for {
		switch p.tok.kind {
		case tokenWord:
			all = append(all, p.statement(depth))
		case tokenOpen:
			p.fail(p.tok.line, "{ without a name")
			all = append(all, p.block(depth, p.tok.line)...)
		default:
			return all
		}
	}
}

func (p *parser) statement(depth int) statement {
	s := statement{name: strings.ToLower(p.tok.text), shown: p.tok.text, line: p.tok.line}
	last := s.line
	p.advance()
	for p.tok.kind == tokenWord {
		if one := single[s.name]; one && len(s.args) == 1 || !one && p.tok.line != last {
			break
		}
		s.args = append(s.args, p.tok.text)
		last = p.tok.line
		p.advance()
	}
	if p.tok.kind == tokenOpen {
		s.block = p.block(depth, p.tok.line)
	}
	return s
}

// block reads a block, of which the { is the present token.
func (p *parser) block(depth, line int) []statement {
	p.advance()
	if depth >= maxDepth {
		p.fail(line, "blocks are nested too deeply")
		p.tok.kind = tokenEnd
		p.lex.pos = len(p.lex.text)
		return nil
	}
	all := p.statements(depth + 1)
	if p.tok.kind != tokenClose {
		p.fail(line, "unclosed {")
		return all
	}
	p.advance()
	return all
}
