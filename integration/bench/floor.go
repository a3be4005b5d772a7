package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The floor: events are read in batches, what names a flow is copied into
// datagrams, and the other end keeps a set. It recovers nothing, knows no state
// and keeps nothing on the active: what a program cannot save.

const (
	floorGather = 4 * time.Millisecond
	floorBatch  = 64
	floorRecord = 14 // what happened, source, destination, protocol, ports
	floorPort   = 3999
	floorSpace  = 1400
)

// mmsg reads datagrams in batches.
type mmsg struct {
	fd   int
	hdrs [floorBatch]mmsghdr
	iovs [floorBatch]unix.Iovec
	bufs [floorBatch][]byte
}

func newMmsg(fd, size int) *mmsg {
	m := &mmsg{fd: fd}
	for i := range m.bufs {
		m.bufs[i] = make([]byte, size)
		m.iovs[i].Base = &m.bufs[i][0]
		m.iovs[i].SetLen(size)
		m.hdrs[i].hdr.Iov = &m.iovs[i]
		m.hdrs[i].hdr.SetIovlen(1)
	}
	return m
}

func (m *mmsg) read(flags int) int {
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(m.fd), uintptr(unsafe.Pointer(&m.hdrs[0])), floorBatch, uintptr(flags), 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

func floorActive([]string) error {
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	err = errors.Join(err, unix.Bind(nl, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 | 2 | 4}),
		unix.SetsockoptInt(nl, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20),
		unix.Connect(udp, &unix.SockaddrInet4{Port: floorPort, Addr: [4]byte{192, 0, 2, 2}}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	m, out := newMmsg(nl, 2048), make([]byte, 0, floorSpace)
	flush := func() {
		if len(out) > 0 {
			_, _ = unix.Write(udp, out)
		}
		out = out[:0]
	}
	for {
		n := m.read(unix.MSG_WAITFORONE)
		for ; n > 0; n = m.read(unix.MSG_DONTWAIT) {
			for i := range n {
				if len(out)+floorRecord > floorSpace {
					flush()
				}
				out = floorEncode(out, m.bufs[i][:m.hdrs[i].n])
			}
			if n < floorBatch {
				break
			}
		}
		flush()
		ts := unix.NsecToTimespec(floorGather.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil)
	}
}

// floorEncode relies on the places at which IPv4 tuples stand in an event.
func floorEncode(out, b []byte) []byte {
	if len(b) < 76 {
		return out
	}
	kind := byte(1)
	if b[4] == 2 { // IPCTNL_MSG_CT_DELETE
		kind = 0
	}
	out = append(append(append(out, kind), b[32:36]...), b[40:44]...)
	return append(append(append(out, b[52]), b[60:62]...), b[68:70]...)
}

type floorKey [floorRecord - 1]byte

func floorStandby(args []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrInet4{Port: floorPort}))
	if err != nil {
		return err
	}
	dump := make(chan os.Signal, 1)
	signal.Notify(dump, unix.SIGUSR1)
	flows, m := map[floorKey]struct{}{}, newMmsg(fd, 2048)
	tv := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	fmt.Println("ready")
	for {
		n := m.read(unix.MSG_WAITFORONE)
		for i := range n {
			for b := m.bufs[i][:m.hdrs[i].n]; len(b) >= floorRecord; b = b[floorRecord:] {
				if k := floorKey(b[1:floorRecord]); b[0] == 1 {
					flows[k] = struct{}{}
				} else {
					delete(flows, k)
				}
			}
		}
		if n == 0 {
			select {
			case <-dump:
				if err := floorDump(args[0], flows); err != nil {
					return err
				}
			default:
			}
		}
	}
}

func floorDump(path string, flows map[floorKey]struct{}) error {
	b := make([]byte, 0, len(flows)*len(floorKey{}))
	for k := range flows {
		b = append(b, k[:]...)
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
