package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// LocalAddrs returns the addresses assigned to this host.
func (c *Conn) LocalAddrs() ([]netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list local addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(nets))
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}

// WatchAddrs calls fn with the addresses of this host: those that are there at
// first, and all of them again whenever some came or went, without a delay. fn
// must not keep the map.
func (c *Conn) WatchAddrs(ctx context.Context, fn func(local map[netip.Addr]bool)) error {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return fmt.Errorf("open a route socket: %w", err)
	}
	defer nl.Close()
	defer interrupt(ctx, nl)()
	here := places{}
	if err := c.look(here); err != nil {
		return err
	}
	fn(here.addrs())
	for {
		msgs, err := nl.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			clear(here)
			err = c.look(here)
		case err == nil:
			for i := range msgs {
				here.take(&msgs[i])
			}
		}
		if err != nil {
			return cause(ctx, fmt.Errorf("read address changes: %w", err))
		}
		fn(here.addrs())
	}
}

// place is an address on an interface.
type place struct {
	addr  netip.Addr
	index int32
}

type places map[place]bool

// look lists what is there now.
func (c *Conn) look(into places) error {
	devs, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, dev := range devs {
		nets, err := dev.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, n := range nets {
			if p, err := netip.ParsePrefix(n.String()); err == nil {
				into[place{p.Addr().Unmap(), int32(dev.Index)}] = true
			}
		}
	}
	return nil
}

func (p places) addrs() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(p))
	for at := range p {
		all[at.addr] = true
	}
	return all
}

// take applies an RTM_NEWADDR or RTM_DELADDR.
func (p places) take(m *netlink.Message) {
	if m.Header.Type != unix.RTM_NEWADDR && m.Header.Type != unix.RTM_DELADDR || len(m.Data) < unix.SizeofIfAddrmsg {
		return
	}
	at := place{index: int32(binary.NativeEndian.Uint32(m.Data[4:]))}
	ad, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return
	}
	for ad.Next() {
		// Of a point-to-point interface IFA_ADDRESS is the other end.
		if ad.Type() == unix.IFA_LOCAL || ad.Type() == unix.IFA_ADDRESS && !at.addr.IsValid() {
			if a, ok := netip.AddrFromSlice(ad.Bytes()); ok {
				at.addr = a.Unmap()
			}
		}
	}
	switch {
	case !at.addr.IsValid():
	case m.Header.Type == unix.RTM_NEWADDR:
		p[at] = true
	default:
		delete(p, at)
	}
}
