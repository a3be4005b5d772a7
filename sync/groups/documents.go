package groups

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/engine"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// ask gathers the documents of the engines a call is about, by group.
func ask[T any](ctx context.Context, g *Groups, fn func(*engine.Engine) (T, error)) (docs []T, names []string, err error) {
	list, err := g.about(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range list {
		d, err := fn(m.Engine)
		if err != nil {
			return nil, nil, err
		}
		docs, names = append(docs, d), append(names, m.name())
	}
	return docs, names, nil
}

func byName[T any](docs []T, names []string) map[string]T {
	m := map[string]T{}
	for i, d := range docs {
		m[names[i]] = d
	}
	return m
}

// Statistics are the sums over the groups, and each group's own.
func (g *Groups) Statistics(ctx context.Context) (stats.Statistics, error) {
	docs, names, err := ask(ctx, g, func(e *engine.Engine) (stats.Statistics, error) { return e.Statistics(ctx) })
	if err != nil {
		return stats.Statistics{}, err
	}
	sum := docs[0]
	if len(docs) > 1 {
		sum, err = total(docs)
		sum.Groups = byName(docs, names)
	}
	if n := g.link.foreign.Load(); n > 0 {
		sum.Drops["foreign_group"] = n
	}
	return sum, err
}

// Commit commits the groups one after the other; the account is the sum.
func (g *Groups) Commit(ctx context.Context) (stats.Commit, error) {
	docs, _, err := ask(ctx, g, func(e *engine.Engine) (stats.Commit, error) { return e.Commit(ctx) })
	if err != nil || len(docs) == 1 {
		return first(docs), err
	}
	return total(docs)
}

// Status is the first group's, and each one's own.
func (g *Groups) Status(ctx context.Context) (stats.Engine, error) {
	docs, names, err := ask(ctx, g, func(e *engine.Engine) (stats.Engine, error) { return e.Status(ctx) })
	if err != nil {
		return stats.Engine{}, err
	}
	all := docs[0]
	all.ForeignGroup = g.link.hearsForeign()
	if len(docs) == 1 {
		return all, nil
	}
	var conflicts []string
	for _, d := range docs {
		if d.Conflict != "" {
			conflicts = append(conflicts, d.Conflict)
		}
	}
	all.Conflict = strings.Join(conflicts, ", ")
	all.Groups = byName(docs, names)
	return all, nil
}

// Diff puts together what the groups' repairs found.
func (g *Groups) Diff(ctx context.Context) (stats.Diff, error) {
	docs, names, err := ask(ctx, g, func(e *engine.Engine) (stats.Diff, error) { return e.Diff(ctx) })
	if err != nil || len(docs) == 1 {
		return first(docs), err
	}
	all := docs[0]
	all.Peers, all.Found = []stats.Peer{}, []stats.Difference{}
	for _, d := range docs {
		all.Peers, all.Found = append(all.Peers, d.Peers...), append(all.Found, d.Found...)
	}
	all.Groups = byName(docs, names)
	return all, nil
}

// CommitReport is that of the group that committed last, with everything refused.
func (g *Groups) CommitReport(ctx context.Context) (stats.CommitReport, error) {
	docs, _, err := ask(ctx, g, func(e *engine.Engine) (stats.CommitReport, error) { return e.CommitReport(ctx) })
	if err != nil || len(docs) == 1 {
		return first(docs), err
	}
	all := docs[0]
	for _, d := range docs[1:] {
		if d.Commit != nil && (all.Commit == nil || d.Commit.At > all.Commit.At) {
			all.Commit = d.Commit
		}
		all.Refused = append(all.Refused, d.Refused...)
	}
	return all, nil
}

// Where looks in every group the call is about: a flow is in one of them.
func (g *Groups) Where(ctx context.Context, q flow.Query) (stats.Where, error) {
	docs, _, err := ask(ctx, g, func(e *engine.Engine) (stats.Where, error) { return e.Where(ctx, q) })
	if err != nil || len(docs) == 1 {
		return first(docs), err
	}
	all := docs[0]
	all.Role = "" // each group has its own
	for _, d := range docs[1:] {
		all.Flows = append(all.Flows, d.Flows...)
		all.Truncated = all.Truncated || d.Truncated
	}
	return all, nil
}

func first[T any](docs []T) (d T) {
	if len(docs) > 0 {
		d = docs[0]
	}
	return d
}

// shared are members that are the same in every group's document.
var shared = map[string]bool{"channel": true, "links": true, "resend_limit": true, "event_buffer_bytes": true}

// total adds the numbers of documents up, member by member; of everything else the
// first document's is taken.
func total[T any](docs []T) (sum T, err error) {
	var all any
	for _, d := range docs {
		var v any
		b, e := json.Marshal(d)
		err = errors.Join(err, e, json.Unmarshal(b, &v))
		all = add(all, v)
	}
	b, e := json.Marshal(all)
	return sum, errors.Join(err, e, json.Unmarshal(b, &sum))
}

func add(a, b any) any {
	switch x := a.(type) {
	case nil:
		return b
	case float64:
		if y, ok := b.(float64); ok {
			return x + y
		}
	case map[string]any:
		y, _ := b.(map[string]any)
		for k, v := range y {
			if !shared[k] || x[k] == nil {
				x[k] = add(x[k], v)
			}
		}
	}
	return a
}
