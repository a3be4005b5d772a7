package vrrpwatch

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/conntrack-sync/conntrack-sync/sync/gather"
)

// Conf is what a look at keepalived's configuration gave.
type Conf struct {
	Keepalived *Keepalived // nil where it could not be read
	Warnings   []string
	Err        error
}

// ReadConf looks once.
func ReadConf(path string) Conf {
	k, warnings, err := ReadKeepalived(path)
	return Conf{k, warnings, err}
}

// Equal reports whether two looks gave the same.
func (c Conf) Equal(o Conf) bool {
	return reflect.DeepEqual(c.Keepalived, o.Keepalived) && reflect.DeepEqual(c.Warnings, o.Warnings) &&
		fmt.Sprint(c.Err) == fmt.Sprint(o.Err)
}

// confEvery is how often keepalived's configuration is looked at. keepalived
// itself reads it only when told to, and a look costs some microseconds: what an
// operator can do with files, links and includes needs no cleverness here.
const confEvery = time.Second

// WatchConf calls fn when keepalived's configuration, or a file it includes, is
// another than known: once two looks in a row agree, so that a file is not taken
// in the middle of its change. It returns when ctx ends.
func WatchConf(ctx context.Context, path string, known Conf, fn func(Conf)) error {
	t := time.NewTimer(gather.Whole(time.Now(), confEvery))
	defer t.Stop()
	last := known
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		t.Reset(gather.Whole(time.Now(), confEvery))
		now := ReadConf(path)
		if now.Equal(last) && !now.Equal(known) {
			known = now
			fn(now)
		}
		last = now
	}
}
