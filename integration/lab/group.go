package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// NewGroup builds n routers of which only the sync link matters: each has eth0,
// 192.0.2.1 and so on, plugged into a hub that does to datagrams what it is told.
// No daemon runs yet, and there is no keepalived: roles are told with Notify, flows
// are made with Churn. config is the configuration of router i.
func NewGroup(bin string, n int, config func(i int) string) (l *Lab, nodes []*Node, hub *Hub, err error) {
	dir, err := os.MkdirTemp("", "conntrack-sync-lab-")
	if err != nil {
		return nil, nil, nil, err
	}
	l = &Lab{Dir: dir, opt: Options{Bin: bin, Sync: []string{SyncDev}}, prefix: fmt.Sprintf("cts%d.%d", os.Getpid(), labs.Add(1))}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.sw, err = l.add("hub"); err != nil {
		return l, nil, nil, err
	}
	for i := range n {
		r, err := l.add(fmt.Sprintf("r%d", i+1))
		if err == nil {
			err = l.plugSync(r, i)
		}
		if err == nil {
			err = r.files(config(i), 100)
		}
		if err != nil {
			return l, nil, nil, err
		}
		nodes = append(nodes, r)
	}
	copy(l.R[:], nodes)
	hub, err = l.startHub(n)
	return l, nodes, hub, err
}

func (l *Lab) add(name string) (*Node, error) {
	n := &Node{Name: name, Namespace: l.prefix + "-" + name, Dir: filepath.Join(l.Dir, name), lab: l}
	return n, n.create()
}

// plugSync connects a router to the hub. Checksums must be whole when a packet
// passes through user space, and trains of datagrams cut up.
func (l *Lab) plugSync(r *Node, i int) error {
	port := fmt.Sprintf("p%d", i)
	for _, x := range []struct {
		n    *Node
		args []string
	}{
		{l.sw, []string{"ip", "link", "add", port, "type", "veth", "peer", "name", SyncDev, "netns", r.Namespace}},
		{l.sw, []string{"sysctl", "-qw", "net.ipv6.conf." + port + ".disable_ipv6=1"}},
		{l.sw, []string{"ip", "link", "set", port, "up"}},
		{r, []string{"sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_be_liberal=1"}},
		{r, []string{"ip", "addr", "add", SyncAddr(0, i) + "/26", "dev", SyncDev}},
		{r, []string{"ip", "link", "set", SyncDev, "up", "gso_max_segs", "1"}},
	} {
		if _, err := x.n.Run(x.args...); err != nil {
			return err
		}
	}
	return nil
}

// Notify tells a router its role, as keepalived's script does.
func (n *Node) Notify(role string) error {
	_, err := n.Run(n.Binary(), "notify", "--state-dir", n.StateDir(), "GROUP", Group, role, "100")
	return err
}
