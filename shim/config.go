package shim

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/conf/confwatch"
	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
)

// machine answers the configuration checks from this machine.
type machine struct{}

func (machine) Addrs(name string) ([]netip.Addr, bool) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, false
	}
	nets, _ := dev.Addrs()
	return plain(nets), true
}

func (machine) Local(a netip.Addr) bool {
	nets, _ := net.InterfaceAddrs()
	for _, l := range plain(nets) {
		if l == a {
			return true
		}
	}
	return false
}

func plain(nets []net.Addr) (addrs []netip.Addr) {
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}

// firstConfig loads the configuration at the start; errors are returned, one a
// line.
func (s *Shim) firstConfig() error {
	files, err := confwatch.Read(s.opt.ConfDir)
	if err != nil {
		s.log.Warn("configuration directory cannot be read, waiting for it", "err", err)
		return nil
	}
	if !s.load(files) {
		errs := make([]error, len(s.problems))
		for i, p := range s.problems {
			errs[i] = errors.New(p)
		}
		return errors.Join(errs...)
	}
	return nil
}

func (s *Shim) watchConfig(ctx context.Context) error {
	first := true
	return confwatch.Watch(ctx, s.opt.ConfDir, func(files []conf.File, err error) {
		if err != nil {
			if !first {
				s.log.Error("configuration kept: the directory cannot be read", "err", err)
			}
			return
		}
		first = false
		if s.load(files) {
			s.configureEngine(ctx)
		}
	})
}

// reload loads the files again that were read last: what they mean depends on
// keepalived's configuration.
func (s *Shim) reload(ctx context.Context) {
	s.loadMu.Lock()
	files := s.lastFiles
	s.loadMu.Unlock()
	if files != nil && s.load(files) {
		s.configureEngine(ctx)
	}
}

// load parses the files and makes them the settings; ok is false when they
// cannot be used, and then nothing but the list of problems changes.
func (s *Shim) load(files []conf.File) (ok bool) {
	s.loadMu.Lock()
	defer s.loadMu.Unlock()
	s.lastFiles = files
	k := s.lookAtKeepalived()
	cfg, warnings, problems := conf.Parse(files, vrrp{s.opt.system, s.opt.KeepalivedConf, k})
	var lines, names []string
	refused := "configuration refused, the running one is kept"
	s.view(func() {
		if s.settings == nil {
			refused = "configuration refused"
		}
	})
	for _, w := range warnings {
		s.log.Warn("configuration", "warning", w.String())
	}
	for _, p := range problems {
		lines = append(lines, p.String())
		s.log.Error(refused, "problem", p.String())
	}
	for _, f := range files {
		names = append(names, f.Name)
	}
	if cfg != nil && s.opt.Syslog != nil {
		s.opt.Syslog(!cfg.DisableSyslog)
	}
	s.change(func() {
		s.problems, s.refusal = lines, ""
		if len(problems) > 0 {
			return
		}
		s.files = names
		var next *contract.Settings
		if cfg != nil {
			next = &contract.Settings{Config: *cfg}
			if k != nil {
				next.VirtualAddresses = k.VirtualAddresses("")
				next.GroupAddresses = groupAddresses(cfg, k)
			}
		}
		s.settings = next
		s.adoptGroups()
	})
	return len(problems) == 0
}

// configureEngine gives changed settings to the running engine. Where there is
// none the supervisor gives them to the next.
func (s *Shim) configureEngine(ctx context.Context) {
	var engine contract.Engine
	var settings *contract.Settings
	s.view(func() { engine, settings = s.engine, s.settings })
	if engine == nil || settings == nil {
		return
	}
	var former contract.Settings
	s.view(func() { former = s.applied })
	if reflect.DeepEqual(former, *settings) {
		return
	}
	if err := engine.Configure(ctx, *settings); err != nil {
		s.log.Error("the engine keeps its former configuration", "err", err)
		s.change(func() { s.refusal = err.Error() })
		return
	}
	s.change(func() { s.applied, s.refusal = *settings, "" })
	for _, c := range changes(former.SetLines(), settings.SetLines()) {
		s.log.Info("configuration changed: " + c)
	}
	if !slices.Equal(former.VirtualAddresses, settings.VirtualAddresses) {
		s.log.Info("virtual addresses changed", "addresses", settings.VirtualAddresses)
	}
}

// changes names what leads from one configuration to the other, a set or delete
// line each.
func changes(from, to []string) (lines []string) {
	for _, l := range from {
		if !slices.Contains(to, l) {
			lines = append(lines, "delete"+strings.TrimPrefix(l, "set"))
		}
	}
	for _, l := range to {
		if !slices.Contains(from, l) {
			lines = append(lines, l)
		}
	}
	return lines
}
