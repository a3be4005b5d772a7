package kernel

import (
	"errors"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// moves hears of addresses and interfaces that come and go.
type moves struct {
	nl *netlink.Conn
	r  *reader
}

const (
	moveReads = 16
	moveSize  = 2048
)

func openMoves() (*moves, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return nil, err
	}
	r, err := newReader(nl, moveReads, moveSize)
	if err != nil {
		return nil, errors.Join(err, nl.Close())
	}
	return &moves{nl, r}, nil
}

// AddrsChanged reports, without waiting, whether addresses or interfaces changed
// since it was asked last; the first time it is true. The kernel announces the end
// of an address before it ends the flows that were masqueraded to it, so whoever has
// read of such an end finds the change here. One caller at a time.
func (c *Conn) AddrsChanged() bool {
	if c.moves == nil {
		m, err := openMoves()
		if err != nil {
			c.log.Warn("changes of addresses are not noticed at once", "err", err)
			return true
		}
		c.moves = m
		return true
	}
	changed := false
	for {
		switch n, err := c.moves.r.read(true); {
		case errors.Is(err, unix.ENOBUFS):
			changed = true
		case err != nil || n == 0:
			return changed
		default:
			changed = true
		}
	}
}

// UsableAddrs returns the addresses of interfaces that are up.
func (c *Conn) UsableAddrs() (all []netip.Addr, err error) {
	devs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, d := range devs {
		if d.Flags&net.FlagUp == 0 {
			continue
		}
		nets, err := d.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, n := range nets {
			if p, err := netip.ParsePrefix(n.String()); err == nil {
				all = append(all, p.Addr().Unmap())
			}
		}
	}
	return all, nil
}
