package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/conf/confwatch"
	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/conntrack-sync/conntrack-sync/shim"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
	"github.com/spf13/cobra"
)

// checked is the answer of "check --json".
type checked struct {
	SetLines []string       `json:"set_lines"`
	Warnings []string       `json:"warnings"`
	Problems []string       `json:"problems"` // with any the configuration is refused
	Groups   []checkedGroup `json:"groups"`   // as keepalived's configuration has them
}

type checkedGroup struct {
	Group            string       `json:"group"`
	Members          []string     `json:"members"`
	VirtualAddresses []netip.Addr `json:"virtual_addresses"`
}

func checkCommand(o *options) *cobra.Command {
	var confDir, keepalived string
	c := o.jsonFlag(&cobra.Command{Use: "check", Short: "Check the configuration and say what it means", Args: noArgs})
	c.Flags().StringVar(&confDir, "conf-dir", defaultConfDir, "directory of *.conf")
	c.Flags().StringVar(&keepalived, "keepalived-conf", defaultKeepalived, "keepalived's configuration")
	c.RunE = func(*cobra.Command, []string) error {
		d := checked{[]string{}, []string{}, []string{}, []checkedGroup{}}
		stdout := o.stdout
		if o.json {
			o.stdout = io.Discard
		}
		err := o.check(confDir, keepalived, &d)
		if !o.json {
			return err
		}
		if err != nil {
			d.Problems = strings.Split(err.Error(), "\n")
		}
		return errors.Join(show.JSON(stdout, d), err)
	}
	return c
}

func (o *options) check(confDir, keepalived string, d *checked) error {
	files, err := confwatch.Read(confDir)
	if errors.Is(err, fs.ErrNotExist) && !exists(confDir) {
		return fmt.Errorf("%w; create it, or name another directory with --conf-dir", err)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w; --conf-dir names the directory of the *.conf files", err)
	}
	if err != nil {
		return err
	}
	known := vrrpwatch.ReadConf(keepalived)
	cfg, warnings, problems := conf.Parse(files, shim.Machine(keepalived, known.Keepalived))
	for _, w := range warnings {
		o.checkWarns(d, w.String())
	}
	if len(problems) > 0 {
		return oneEach(problems)
	}
	if cfg == nil {
		return shim.ErrNotConfigured
	}
	d.SetLines = cfg.SetLines()
	for _, l := range d.SetLines {
		fmt.Fprintln(o.stdout, l)
	}
	if cfg.BGP != nil {
		o.checkWindows()
	}
	return o.checkKeepalived(keepalived, known, cfg, d)
}

func (o *options) checkWarns(d *checked, warning string) {
	d.Warnings = append(d.Warnings, warning)
	fmt.Fprintf(o.stderr, "warning: %s\n", warning)
}

// checkKeepalived says what is understood of keepalived.conf.
func (o *options) checkKeepalived(path string, known vrrpwatch.Conf, cfg *conf.Config, d *checked) error {
	if errors.Is(known.Err, os.ErrNotExist) {
		fmt.Fprintf(o.stdout, "# %s does not exist: no virtual addresses are known\n", path)
		return nil
	}
	if known.Err != nil {
		return known.Err
	}
	for _, w := range known.Warnings {
		o.checkWarns(d, fmt.Sprint(w))
	}
	k := known.Keepalived
	for _, group := range cfg.Groups() {
		if !k.HasGroup(group) {
			return fmt.Errorf("%s has no vrrp_sync_group %s; it has: %s", path, group, strings.Join(k.GroupNames(), " "))
		}
		members, addrs := k.Members(group), k.VirtualAddresses(group)
		d.Groups = append(d.Groups, checkedGroup{group, append([]string{}, members...), append([]netip.Addr{}, addrs...)})
		fmt.Fprintf(o.stdout, "# %s: group %s has members %s and moves %v\n", path, group, strings.Join(members, " "), addrs)
	}
	return nil
}
