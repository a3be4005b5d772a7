package conf

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BGP says which routes follow the roles, and how they are announced.
type BGP struct {
	API      netip.AddrPort `json:"api"` // of gobgpd
	Prefixes []BGPPrefix    `json:"prefixes"`
	// MED of the MASTER's path before the generation is taken off it, of the
	// standby's, and of a node's that is not ready; 0 of the last: no path.
	MasterMED  uint32 `json:"master_med"`
	StandbyMED uint32 `json:"standby_med"`
	UnreadyMED uint32 `json:"unready_med,omitempty"`
	// StandbyPrepend is how many times the own AS stands before the standby's path.
	StandbyPrepend   uint8         `json:"standby_prepend,omitempty"`
	StandbyWithdraw  bool          `json:"standby_withdraw,omitempty"` // the standby has no path
	Communities      []Community   `json:"communities,omitempty"`
	GracefulShutdown time.Duration `json:"graceful_shutdown,omitempty"` // 0: not used
	// Grace is how long a node that is not MASTER any more keeps its path when no
	// peer says that it took over, and how long one may be out of sync before its
	// path is lowered.
	Grace time.Duration `json:"grace"`
}

// BGPPrefix is a route and the sync group it follows; "" is the first one.
type BGPPrefix struct {
	Prefix    netip.Prefix `json:"prefix"`
	SyncGroup string       `json:"sync_group,omitempty"`
}

// Community is an ordinary community of two numbers, or a large one of three.
type Community struct {
	Large   bool
	A, B, C uint32
}

// String is the community as it is written in the configuration.
func (c Community) String() string {
	if c.Large {
		return fmt.Sprintf("%d:%d:%d", c.A, c.B, c.C)
	}
	return fmt.Sprintf("%d:%d", c.A, c.B)
}

// MarshalText and UnmarshalText are String and its reverse.
func (c Community) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *Community) UnmarshalText(b []byte) (err error) {
	*c, err = parseCommunity(string(b))
	return err
}

// Defaults of the nodes below bgp.
const (
	DefaultMasterMED = 100
	medStep          = 100 // from the MASTER's to the standby's
	DefaultGrace     = 3 * time.Second
)

// DefaultAPI is where gobgpd listens by itself.
var DefaultAPI = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 50051)

// bgp is the part of the Config below the node bgp, made when it is first met.
func (c *Config) bgp() *BGP {
	if c.BGP == nil {
		c.BGP = &BGP{API: DefaultAPI, MasterMED: DefaultMasterMED, Grace: DefaultGrace}
	}
	return c.BGP
}

func bgpNumber(set func(b *BGP, n uint32)) func(*Config, string) {
	return func(c *Config, s string) {
		n, _ := strconv.ParseUint(s, 10, 32)
		set(c.bgp(), uint32(n))
	}
}

func bgpSeconds(field func(b *BGP) *time.Duration) func(*Config, string) {
	return bgpNumber(func(b *BGP, n uint32) { *field(b) = time.Duration(n) * time.Second })
}

// finish sorts what has no order and fills in what depends on other nodes.
func (b *BGP) finish() {
	slices.SortFunc(b.Prefixes, func(x, y BGPPrefix) int { return comparePrefix(x.Prefix, y.Prefix) })
	slices.SortFunc(b.Communities, func(x, y Community) int { return strings.Compare(x.String(), y.String()) })
	if b.StandbyMED == 0 {
		b.StandbyMED = defaultStandby(b.MasterMED)
	}
}

func defaultStandby(master uint32) uint32 {
	return uint32(min(uint64(master)+medStep, math.MaxUint32))
}

func checkAPI(s string) (string, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		return "", fmt.Errorf("%s is not ADDRESS:PORT, such as 127.0.0.1:50051 or [::1]:50051", shown(s))
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String(), nil
}

// checkRoute wants a prefix as a route has it: nothing set behind its length.
func checkRoute(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return "", fmt.Errorf("%s is not an IPv4 or IPv6 prefix", shown(s))
	}
	if p != p.Masked() {
		return "", fmt.Errorf("%s has bits set behind its length; the prefix is %s", s, p.Masked())
	}
	return p.String(), nil
}

func checkMED(s string) (string, error) {
	return number(s, 1, math.MaxUint32, "med must be in range 1 to 4294967295")
}

func checkPrepend(s string) (string, error) {
	return number(s, 1, 10, "as-path-prepend must be in range 1 to 10")
}

func checkShutdown(s string) (string, error) {
	return number(s, 1, 3600, "graceful-shutdown must be in range 1 to 3600 seconds")
}

func checkGrace(s string) (string, error) {
	return number(s, 1, 3600, "grace-time must be in range 1 to 3600 seconds")
}

// wellKnown are the communities that have names, of RFC 1997 and RFC 8326.
var wellKnown = map[string]Community{
	"no-export": {A: 65535, B: 65281}, "no-advertise": {A: 65535, B: 65282},
	"no-export-subconfed": {A: 65535, B: 65283}, "no-peer": {A: 65535, B: 65284},
}

func checkCommunity(s string) (string, error) {
	c, err := parseCommunity(s)
	return c.String(), err
}

func parseCommunity(s string) (Community, error) {
	if c, ok := wellKnown[s]; ok {
		return c, nil
	}
	words := strings.Split(s, ":")
	if len(words) != 2 && len(words) != 3 {
		return Community{}, errCommunity(s)
	}
	var n [3]uint32
	for i, w := range words {
		bits := 32
		if len(words) == 2 {
			bits = 16
		}
		v, err := strconv.ParseUint(w, 10, bits)
		if err != nil {
			return Community{}, errCommunity(s)
		}
		n[i] = uint32(v)
	}
	c := Community{Large: len(words) == 3, A: n[0], B: n[1], C: n[2]}
	if c == gracefulShutdown {
		return c, errors.New("65535:0 is GRACEFUL_SHUTDOWN, which graceful-shutdown sets when it is time")
	}
	return c, nil
}

// gracefulShutdown is the community of RFC 8326.
var gracefulShutdown = Community{A: 65535, B: 0}

func errCommunity(s string) error {
	return fmt.Errorf("%s is not a community such as 65001:77, a large one such as 4200000001:1:2, or one of: no-export no-advertise no-export-subconfed no-peer", shown(s))
}
