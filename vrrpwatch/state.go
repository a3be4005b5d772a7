// Package vrrpwatch follows the roles keepalived gives to VRRP sync groups: it
// reads, writes and watches state files and the notify fifo, and yields role
// changes in order. Which source is believed is decided by Ranker, which is
// pure.
package vrrpwatch

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// State is a role, in keepalived's words.
type State string

// The roles that are acted upon.
const (
	Master State = "MASTER"
	Backup State = "BACKUP"
	Fault  State = "FAULT"
	Stop   State = "STOP"
)

// Record is what one writer said of one group or instance.
type Record struct {
	Kind     string // GROUP, INSTANCE, KindScript, or "" where the writer did not say
	Name     string
	State    State
	Priority int
	Stamp    time.Time // zero where the writer gave none
	Order    Order     // of the writer's start; zero where it gave none
}

// KindScript marks a role that nobody told: it was read from what a script of
// conntrackd's asked for.
const KindScript = "SCRIPT"

// ErrNoState says that there is no state in what was read, as in the middle of
// a write. It never means BACKUP.
var ErrNoState = errors.New("no state in it")

// ErrNotARole is for words of keepalived that are no roles (DELETED,
// MASTER_PRIORITY and their like) and for unknown ones: logged and ignored.
var ErrNotARole = errors.New("not a role")

func parseWord(w string) (State, error) {
	switch s := State(strings.ToUpper(w)); s {
	case Master, Backup, Fault, Stop:
		return s, nil
	case "SLAVE":
		return Backup, nil
	}
	return "", fmt.Errorf("%q: %w", w, ErrNotARole)
}

// ParseState reads a state file: what Write writes, a bare word, a sentence of
// VyOS's ("MASTER at ..."), "state: MASTER", "STATE=MASTER", or the words of a
// notify script. Case, blanks before it and line ends do not matter.
func ParseState(b []byte) (Record, error) {
	words := strings.Fields(strings.ReplaceAll(string(b), "=", " "))
	if len(words) == 0 {
		return Record{}, ErrNoState
	}
	switch first := strings.ToUpper(strings.TrimSuffix(words[0], ":")); first {
	case "STATE":
		if len(words) == 1 {
			return Record{}, ErrNoState
		}
		words = words[1:]
	case "GROUP", "INSTANCE":
		return parseSentence(first, words[1:])
	}
	st, err := parseWord(words[0])
	if err != nil {
		return Record{}, err
	}
	r := Record{State: st}
	if len(words) >= 3 {
		r.Priority, _ = strconv.Atoi(words[1])
		r.Stamp = parseStamp(words[2])
	}
	if len(words) >= 4 {
		r.Kind = strings.ToUpper(words[3])
	}
	if len(words) >= 5 {
		r.Order = parseOrder(words[4])
	}
	return r, nil
}

// parseSentence takes the last known state word of a line.
func parseSentence(kind string, words []string) (Record, error) {
	for i := len(words) - 1; i >= 0; i-- {
		if st, err := parseWord(words[i]); err == nil {
			return Record{Kind: kind, State: st}, nil
		}
	}
	return Record{}, ErrNoState
}

// parseStamp reads seconds since the epoch with up to nine decimals; zero when
// it is no number.
func parseStamp(w string) time.Time {
	whole, frac, _ := strings.Cut(w, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(frac) > 9 {
		return time.Time{}
	}
	nsec, err := strconv.ParseInt(frac+strings.Repeat("0", 9-len(frac)), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(sec, nsec)
}

// ParseFIFOLine reads a line of the notify fifo:
//
//	GROUP "name" MASTER 0
//
// The name is not escaped; it ends at the last quote.
func ParseFIFOLine(line string) (Record, error) {
	kind, rest, ok := strings.Cut(strings.TrimSpace(line), ` "`)
	if !ok || kind != "GROUP" && kind != "INSTANCE" {
		return Record{}, fmt.Errorf("fifo line %q: neither GROUP nor INSTANCE", line)
	}
	end := strings.LastIndexByte(rest, '"')
	if end < 0 {
		return Record{}, fmt.Errorf("fifo line %q: name without its end", line)
	}
	words := strings.Fields(rest[end+1:])
	if len(words) == 0 {
		return Record{}, fmt.Errorf("fifo line %q: %w", line, ErrNoState)
	}
	st, err := parseWord(words[0])
	if err != nil {
		return Record{}, err
	}
	r := Record{Kind: kind, Name: rest[:end], State: st}
	if len(words) > 1 {
		r.Priority, _ = strconv.Atoi(words[1])
	}
	return r, nil
}

// CheckName refuses names that cannot be file names in the state directory.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a group or instance needs a name")
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("name %q begins with a dot; choose another in keepalived.conf, state files bear it", name)
	case strings.Contains(name, "/"):
		return fmt.Errorf("name %q contains a slash; choose another in keepalived.conf, state files bear it", name)
	case len(name) > 200:
		return fmt.Errorf("name of %d bytes is too long", len(name))
	}
	for _, c := range name {
		if c < 0x20 || c == 0x7f {
			return fmt.Errorf("name %q contains a control character", name)
		}
	}
	return nil
}
