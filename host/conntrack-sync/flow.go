package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/spf13/cobra"
)

func (o *options) flowCommand() *cobra.Command {
	c := &cobra.Command{Use: "flow SRC DST [PROTOCOL [SPORT [DPORT]]]", Short: "Where a flow is, on every node",
		Long: `Where a flow is: in the kernel and the caches of this node and of its peers.
SRC and DST are those of a packet in either direction, before or after its
translation. PROTOCOL, SPORT and DPORT may be "any".`}
	c.RunE = func(c *cobra.Command, args []string) error {
		q, err := parseQuery(args)
		if err != nil {
			return usageError{err}
		}
		w, err := shim.Dial(o.runDir).Where(c.Context(), q)
		if err != nil {
			return err
		}
		if o.json {
			return show.JSON(o.stdout, w)
		}
		return show.Where(o.stdout, w)
	}
	return c
}

func parseQuery(args []string) (q flow.Query, err error) {
	if len(args) < 2 || len(args) > 5 {
		return q, fmt.Errorf("want SRC DST [PROTOCOL [SPORT [DPORT]]]")
	}
	addrs := [...]*netip.Addr{&q.Src, &q.Dst}
	for i, a := range addrs {
		if *a, err = netip.ParseAddr(args[i]); err != nil || a.Zone() != "" {
			return q, fmt.Errorf("%q is not an address", args[i])
		}
		*a = a.Unmap()
	}
	if q.Src.Is4() != q.Dst.Is4() {
		return q, fmt.Errorf("%s and %s are of different families", q.Src, q.Dst)
	}
	if len(args) > 2 {
		if q.Proto, err = parseProtocol(args[2]); err != nil {
			return q, err
		}
	}
	ports := [...]*uint16{&q.Sport, &q.Dport}
	for i, s := range args[min(len(args), 3):] {
		if s == "any" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return q, fmt.Errorf("%q is not a port", s)
		}
		*ports[i] = uint16(n)
	}
	return q, nil
}

func parseProtocol(s string) (uint8, error) {
	if s == "any" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return uint8(n), nil
	}
	for n := 1; n < 256; n++ {
		if strings.EqualFold(flow.ProtoName(uint8(n)), s) {
			return uint8(n), nil
		}
	}
	return 0, fmt.Errorf("%q is not a protocol", s)
}
