package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Paths of a router.
func (n *Node) ConfDir() string         { return filepath.Join(n.Dir, "conf.d") }
func (n *Node) StateDir() string        { return filepath.Join(n.Dir, "run", "state") }
func (n *Node) RunDir() string          { return filepath.Join(n.Dir, "run") }
func (n *Node) FIFO() string            { return filepath.Join(n.RunDir(), "vrrp.fifo") }
func (n *Node) file(name string) string { return filepath.Join(n.Dir, name) }

// Binary is the command.
func (n *Node) Binary() string {
	if n.Bin != "" {
		return filepath.Join(n.Bin, "conntrack-sync")
	}
	return filepath.Join(n.lab.opt.Bin, "conntrack-sync")
}

// files writes the router's configuration.
func (n *Node) files(config string, priority int) error {
	if config == "" {
		config = Seed
	}
	for _, d := range []string{n.ConfDir(), n.StateDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"conf.d/sync.conf": config,
		"keepalived.conf":  n.keepalived(groupOf(config), priority),
		"conntrackd.conf":  n.conntrackd(),
	} {
		if err := os.WriteFile(n.file(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// groupOf is the sync group a configuration names.
func groupOf(config string) string {
	_, after, _ := strings.Cut(config, "failover-mechanism vrrp sync-group ")
	line, _, _ := strings.Cut(after, "\n")
	if name := strings.Trim(line, " '"); name != "" {
		return name
	}
	return Group
}

func (n *Node) keepalived(group string, priority int) string {
	notify := fmt.Sprintf("%s notify --state-dir %s", n.Binary(), n.StateDir())
	conf := fmt.Sprintf(`global_defs {
    router_id %s
    script_user root
    vrrp_version 3
    vrrp_notify_fifo %s
}
`, n.Name, n.FIFO())
	track := ""
	if n.lab.opt.Track {
		conf += fmt.Sprintf("track_file ctsync {\n    file \"%s\"\n    weight 1\n    init_file -100 overwrite\n}\n", filepath.Join(n.RunDir(), "ready"))
		track = "track_file {\n        ctsync\n    }"
	}
	conf += fmt.Sprintf(`vrrp_sync_group %s {
    group {
        internal
        external
    }
    %s
    notify "%s"
}
`, group, track, notify)
	for i, inst := range [][4]string{{"internal", "lan0", LANVirtual, LANVirtual6}, {"external", "wan0", WANVirtual, WANVirtual6}} {
		conf += fmt.Sprintf(`vrrp_instance %s {
    state BACKUP
    interface %s
    virtual_router_id %d
    priority %d
    advert_int 0.2
    virtual_ipaddress {
        %s/24 dev %s
    }
    virtual_ipaddress_excluded {
        %s/64 dev %s
    }
    notify "%s"
}
`, inst[0], inst[1], 51+i, priority, inst[2], inst[1], inst[3], inst[1], notify)
	}
	if n.lab.opt.BGP {
		return lanOnly(conf)
	}
	return conf
}

// conntrackd is the configuration of the real thing on the seed's link.
func (n *Node) conntrackd() string {
	local := "192.0.2." + strings.TrimPrefix(n.Name, "r")
	return fmt.Sprintf(`Sync {
    Mode FTFW { }
    Multicast {
        IPv4_address 225.0.0.50
        Group 3780
        IPv4_interface %s
        Interface %s
        SndSocketBuffer 16777216
        RcvSocketBuffer 16777216
        Checksum on
    }
}
General {
    HashSize 65536
    HashLimit 1048576
    LockFile %s
    LogFile %s
    UNIX { Path %s }
    NetlinkBufferSize 16777216
    NetlinkBufferSizeMaxGrowth 134217728
    NetlinkEventsReliable on
    Filter From Userspace {
        Protocol Accept { TCP UDP ICMP }
        Address Ignore {
            IPv4_address 127.0.0.1
            IPv4_address 192.0.2.0/24
            IPv4_address 10.1.0.1
            IPv4_address 10.1.0.2
            IPv4_address 203.0.113.1
            IPv4_address 203.0.113.2
        }
    }
}
`, local, SyncDev, n.file("conntrackd.lock"), n.file("conntrackd-file.log"), n.file("conntrackd.sock"))
}

// StartKeepalived starts keepalived in the foreground.
func (n *Node) StartKeepalived() (*Process, error) {
	for _, stale := range []string{"keepalived.pid", "vrrp.pid", "checkers.pid", "bfd.pid"} {
		_ = os.Remove(n.file(stale))
	}
	return n.Start("keepalived", "keepalived", "-n", "-P", "-D", "-l", "-f", n.file("keepalived.conf"),
		"-p", n.file("keepalived.pid"), "-r", n.file("vrrp.pid"), "-c", n.file("checkers.pid"), "-b", n.file("bfd.pid"))
}

// StartSync starts conntrack-sync, with more options behind the usual ones.
func (n *Node) StartSync(more ...string) (*Process, error) {
	args := []string{n.Binary(), "run", "--conf-dir", n.ConfDir(), "--state-dir", n.StateDir(),
		"--run-dir", n.RunDir(), "--vrrp-fifo", n.FIFO(), "--keepalived-conf", n.file("keepalived.conf")}
	return n.Start("conntrack-sync", append(args, more...)...)
}

// StartRoutingHost starts conntrack-sync and a BGP speaker in one process, see
// host/bgp/routinghost.
func (n *Node) StartRoutingHost() (*Process, error) {
	bin := filepath.Dir(n.Binary())
	return n.Start("routinghost", filepath.Join(bin, "routinghost"), "-conf-dir", n.ConfDir(), "-state-dir", n.StateDir(),
		"-run-dir", n.RunDir(), "-vrrp-fifo", n.FIFO(), "-keepalived-conf", n.file("keepalived.conf"),
		"-plugin", filepath.Join(bin, "conntrack-sync-plugin"), "-as", fmt.Sprint(routerAS), "-id", routerID(n),
		"-neighbor", fmt.Sprint(ServerAddr, "=", upstreamAS), "-neighbor", fmt.Sprint(ServerAddr6, "=", upstreamAS))
}

// StartConntrackd starts conntrackd.
func (n *Node) StartConntrackd() (*Process, error) {
	return n.Start("conntrackd", "conntrackd", "-C", n.file("conntrackd.conf"))
}

// Conntrackd runs a request of conntrackd's, such as "-c".
func (n *Node) Conntrackd(args ...string) (string, error) {
	return n.Run(append([]string{"conntrackd", "-C", n.file("conntrackd.conf")}, args...)...)
}

// Sync runs a verb of conntrack-sync.
func (n *Node) Sync(args ...string) (string, error) {
	return n.Run(append([]string{n.Binary(), "--run-dir", n.RunDir()}, args...)...)
}

func ask[T any](n *Node, args ...string) (v T, err error) {
	out, err := n.Sync(append(args, "--json")...)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(out), &v)
}

// Status, Statistics, Cache and Table are the JSON answers of the operator's
// commands.
func (n *Node) Status() (stats.Status, error) {
	return ask[stats.Status](n, "show", "conntrack-sync", "status")
}

func (n *Node) Statistics() (stats.Statistics, error) {
	return ask[stats.Statistics](n, "show", "conntrack-sync", "statistics")
}

func (n *Node) Cache(which string) ([]flow.Flow, error) {
	return ask[[]flow.Flow](n, "show", "conntrack-sync", "cache", which)
}

func (n *Node) Table() ([]flow.Flow, error) {
	return ask[[]flow.Flow](n, "show", "conntrack", "table", "ipv4")
}

// Active are the current entries of both caches.
func (n *Node) Active() (internal, external uint64, err error) {
	s, err := n.Statistics()
	if err != nil {
		return 0, 0, err
	}
	if s.Main.CacheExternal != nil { // nil with disable-external-cache
		external = s.Main.CacheExternal.Active
	}
	return s.Main.CacheInternal.Active, external, nil
}

// Transitions are the receipts of the last changes of role.
func (n *Node) Transitions() ([]stats.Transition, error) {
	return ask[[]stats.Transition](n, "show", "conntrack-sync", "transitions")
}

// Expects are the expectations of a cache.
func (n *Node) Expects(which string) ([]flow.Expect, error) {
	return ask[[]flow.Expect](n, "show", "conntrack-sync", "cache", which, "expect")
}
