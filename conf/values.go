package conf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A value check returns the canonical spelling of a word, or the message that
// an operator reads after the path.

var protocols = []struct {
	word   string
	number uint8
}{
	{"tcp", 6}, {"udp", 17}, {"icmp", 1}, {"icmp6", 58}, {"sctp", 132}, {"dccp", 33},
}

func protocolNumber(word string) (number uint8, ok bool) {
	for _, p := range protocols {
		if p.word == word {
			return p.number, true
		}
	}
	return 0, false
}

func protocolWord(number uint8) (word string, ok bool) {
	for _, p := range protocols {
		if p.number == number {
			return p.word, true
		}
	}
	return "", false
}

func checkProtocol(s string) (string, error) {
	if s == "ipv6-icmp" {
		return "icmp6", nil
	}
	if _, ok := protocolNumber(s); !ok {
		//lint:ignore ST1005 operators know VyOS's words
		return "", errors.New("Allowed protocols: tcp udp icmp icmp6 sctp dccp")
	}
	return s, nil
}

func checkExpect(s string) (string, error) {
	if s != "all" && HelperNames(s) == nil {
		//lint:ignore ST1005 operators know VyOS's words
		return "", fmt.Errorf("Invalid protocol %s (all ftp h323 nfs sip sqlnet)", shown(s))
	}
	return s, nil
}

func checkWire(s string) (string, error) {
	if s != "auto" && s != ProtocolConntrackd && s != ProtocolNative {
		return "", fmt.Errorf("protocol %s is none of: auto conntrackd native", shown(s))
	}
	return s, nil
}

func checkQueue(s string) (string, error) {
	return number(s, 1, 2047, "queue size must be a whole number of MB from 1 to 2047")
}

func checkPort(s string) (string, error) {
	return number(s, 1, 65535, "Port number must be in range 1 to 65535")
}

func checkPurge(s string) (string, error) {
	return number(s, 1, 1<<31-1, "purge-timeout must be in range 1 to 2147483647")
}

func number(s string, low, high uint64, message string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < low || n > high {
		return "", errors.New(message)
	}
	return strconv.FormatUint(n, 10), nil
}

// checkAddr accepts an address without zone: the interface it is used on gives
// the scope.
func checkAddr(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "", fmt.Errorf("%s is not a valid IPv4 address or IPv6 address", shown(s))
	}
	return a.Unmap().String(), nil
}

func checkPeer(s string) (string, error) {
	s, err := checkAddr(s)
	if err != nil {
		return "", err
	}
	if a := netip.MustParseAddr(s); a.IsMulticast() || a.IsUnspecified() || s == "255.255.255.255" {
		return "", fmt.Errorf("%s is not a unicast address", s)
	}
	return s, nil
}

func checkMcast(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || !a.IsMulticast() {
		return "", fmt.Errorf("%s is not a valid IPv4 multicast address", shown(s))
	}
	return s, nil
}

func checkIgnore(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return "", fmt.Errorf("%s is not an IPv4 or IPv6 address or prefix", shown(s))
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked().String(), nil
}

// checkInterface follows the kernel's dev_valid_name: fewer than 16 bytes, no
// slash, colon or blank, not "." or "..".
func checkInterface(s string) (string, error) {
	odd := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) }
	if s == "" || len(s) > 15 || s == "." || s == ".." || !printable(s) || strings.ContainsFunc(s, odd) {
		return "", fmt.Errorf("%q is not a valid interface name", shown(s))
	}
	return s, nil
}

// checkGroup refuses what could not be the name of a group's state file.
func checkGroup(s string) (string, error) {
	if s == "" || len(s) > 200 || s[0] == '.' || strings.Contains(s, "/") || !printable(s) {
		return "", fmt.Errorf("%q cannot be the name of a sync-group", shown(s))
	}
	return s, nil
}

// allExpect is what expect-sync all stands for, in the order it is printed.
// Any other list is sorted, so the order tells which of the two was written.
var allExpect = []string{"ftp", "sip", "h323", "nfs", "sqlnet"}

var helperNames = map[string][]string{
	"ftp":    {"ftp"},
	"h323":   {"RAS", "Q.931", "H.245"},
	"nfs":    {"rpc"},
	"sip":    {"sip"},
	"sqlnet": {"tns"},
}

// HelperNames returns the conntrack helper names that a word of expect-sync
// stands for, to be compared without regard to case; nil for other words.
func HelperNames(word string) []string { return slices.Clone(helperNames[word]) }
