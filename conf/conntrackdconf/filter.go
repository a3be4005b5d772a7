package conntrackdconf

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// protocolWords are accept-protocol's words for conntrackd's names.
var protocolWords = map[string]string{"tcp": "tcp", "udp": "udp", "icmp": "icmp", "ipv6-icmp": "icmp6", "sctp": "sctp", "dccp": "dccp"}

func (t *translator) filterSetting(path string, s *statement) {
	accept := strings.EqualFold(s.arg(), "accept")
	path += " " + printable(s.shown)
	switch {
	case s.name == "protocol" && accept:
		t.protocols(path, s)
	case s.name == "protocol":
		t.note(s.line, path+" "+printable(s.arg()), none+"accept-protocol names what is replicated, not what is left out")
	case s.name == "address" && accept:
		t.note(s.line, path+" "+s.arg(), none+"ignore-address names what is left out, not what is replicated")
	case s.name == "address":
		for i := range s.block {
			t.set(s.block[i].line, "ignore-address", s.block[i].arg())
		}
	default:
		t.other(strings.TrimSuffix(path, " "+printable(s.shown)), s)
	}
}

func (t *translator) protocols(path string, s *statement) {
	for i := range s.block {
		for _, name := range s.block[i].words() {
			word := protocolWords[strings.ToLower(name)]
			if word == "" {
				t.note(s.block[i].line, path+" Accept "+printable(name), none+"accept-protocol knows tcp, udp, icmp, icmp6, sctp and dccp; without accept-protocol every protocol is replicated")
				continue
			}
			t.set(s.block[i].line, "accept-protocol", word)
		}
	}
}

const shownBytes = 80 // of a word of the file in a message

// printable makes a word of the file fit for a one-line message.
func printable(word string) string {
	word = strings.ToValidUTF8(word, "?")
	word = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, word)
	if len(word) <= shownBytes {
		return word
	}
	cut := shownBytes
	for !utf8.RuneStart(word[cut]) {
		cut--
	}
	return word[:cut] + "..."
}
