package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
	"github.com/conntrack-sync/conntrack-sync/vrrpwatch"
)

// vrrp is a System that knows keepalived's sync groups.
type vrrp struct {
	conf.System
	path       string
	keepalived *vrrpwatch.Keepalived
}

var _ conf.VRRP = vrrp{}

// SyncGroups are those of keepalived's configuration, where it is known.
func (v vrrp) SyncGroups() (source string, groups []string) {
	if v.keepalived == nil {
		return v.path, nil
	}
	return v.path, v.keepalived.GroupNames()
}

// Machine is the machine the program runs on, for checks outside a Shim; k may
// be nil.
func Machine(path string, k *vrrpwatch.Keepalived) conf.System { return vrrp{machine{}, path, k} }

// lookAtKeepalived reads keepalived's configuration. What was known of it stays
// while it cannot be read.
func (s *Shim) lookAtKeepalived() *vrrpwatch.Keepalived {
	if s.opt.KeepalivedConf == "" {
		return nil
	}
	s.takeKeepalived(vrrpwatch.ReadConf(s.opt.KeepalivedConf))
	return s.knownKeepalived()
}

func (s *Shim) knownKeepalived() (k *vrrpwatch.Keepalived) {
	s.view(func() { k = s.keepalived.Keepalived })
	return k
}

// takeKeepalived remembers what a look at the configuration gave and says what
// is new in it.
func (s *Shim) takeKeepalived(now vrrpwatch.Conf) {
	var before vrrpwatch.Conf
	s.change(func() {
		before = s.keepalived
		s.keepalived = now
		if now.Keepalived == nil {
			s.keepalived.Keepalived = before.Keepalived
		}
	})
	switch {
	case now.Err != nil && fmt.Sprint(now.Err) != fmt.Sprint(before.Err):
		if errors.Is(now.Err, fs.ErrNotExist) && before.Keepalived == nil {
			s.log.Info("keepalived's configuration is not known", "err", now.Err)
		} else {
			s.log.Warn("keepalived's configuration cannot be read, what was known of it is kept", "err", now.Err)
		}
	case now.Err == nil:
		for _, w := range now.Warnings {
			if !slices.Contains(before.Warnings, w) {
				s.log.Warn("keepalived's configuration", "warning", w)
			}
		}
	}
}

// watchKeepalived follows keepalived's configuration: virtual addresses, members
// and the groups there are.
func (s *Shim) watchKeepalived(ctx context.Context) error {
	if s.opt.KeepalivedConf == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	var known vrrpwatch.Conf
	s.view(func() { known = s.keepalived })
	return vrrpwatch.WatchConf(ctx, s.opt.KeepalivedConf, known, func(c vrrpwatch.Conf) {
		s.takeKeepalived(c)
		if c.Err != nil {
			return
		}
		s.log.Info("keepalived's configuration changed", "groups", c.Keepalived.GroupNames())
		s.reload(ctx)
	})
}

// members are the instances of a sync group.
func (s *Shim) members(group string) []string {
	if k := s.knownKeepalived(); k != nil {
		return k.Members(group)
	}
	return nil
}

// missingGroups says which of the groups that are followed keepalived's
// configuration does not have; mu is held.
func (s *Shim) missingGroups() (list []string) {
	k := s.keepalived.Keepalived
	if k == nil || len(k.Groups) == 0 || s.settings == nil {
		return nil
	}
	for _, g := range s.settings.Groups() {
		if !k.HasGroup(g) {
			list = append(list, fmt.Sprintf("%s has no sync group %s any more; it has: %s", s.opt.KeepalivedConf, g, strings.Join(k.GroupNames(), " ")))
		}
	}
	return list
}

// groupAddresses says what each group moves, where there are several groups.
func groupAddresses(cfg *conf.Config, k *vrrpwatch.Keepalived) (list []conf.Group) {
	if len(cfg.OtherGroups) == 0 {
		return nil
	}
	for _, g := range cfg.Groups() {
		list = append(list, conf.Group{Name: g, Virtual: k.Virtual(g)})
	}
	return list
}
