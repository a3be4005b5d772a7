package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"

	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Client talks to the control socket of a running shim.
type Client struct{ http http.Client }

// Dial returns a client of the shim with this run directory. The connection is
// made by the first call, which fails with ErrNotRunning if nobody listens.
func Dial(runDir string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", socketPath(runDir))
			if errors.Is(err, fs.ErrPermission) {
				return nil, fmt.Errorf("no access to conntrack-sync: %w", err)
			}
			if err != nil {
				return nil, fmt.Errorf("%w (%w)", ErrNotRunning, err)
			}
			return c, nil
		},
	}}}
}

func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://conntrack-sync"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, ErrNotRunning):
		return nil, ErrNotRunning
	case err != nil:
		var u *url.Error // its address means nothing to an operator
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	case resp.StatusCode != http.StatusOK:
		defer resp.Body.Close()
		var f failure
		if json.NewDecoder(resp.Body).Decode(&f) != nil || f.Error == "" {
			return nil, fmt.Errorf("conntrack-sync answers %s", resp.Status)
		}
		if f.Error == ErrNoEngine.Error() {
			return nil, ErrNoEngine
		}
		return nil, errors.New(f.Error)
	}
	return resp, nil
}

func get[T any](ctx context.Context, c *Client, method, path string) (v T, err error) {
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	return v, json.NewDecoder(resp.Body).Decode(&v)
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (stats.Status, error) {
	return get[stats.Status](ctx, c, http.MethodGet, "/status")
}

// Statistics asks for the counters.
func (c *Client) Statistics(ctx context.Context) (stats.Statistics, error) {
	return get[stats.Statistics](ctx, c, http.MethodGet, "/statistics")
}

// Transitions asks for the receipts of the last changes of role.
func (c *Client) Transitions(ctx context.Context) ([]stats.Transition, error) {
	return get[[]stats.Transition](ctx, c, http.MethodGet, "/transitions")
}

// Diff asks how the nodes' views compare.
func (c *Client) Diff(ctx context.Context) (stats.Diff, error) {
	return get[stats.Diff](ctx, c, http.MethodGet, "/diff")
}

// CommitReport asks for the account of the last commit.
func (c *Client) CommitReport(ctx context.Context) (stats.CommitReport, error) {
	return get[stats.CommitReport](ctx, c, http.MethodGet, "/commit")
}

// Where asks where the flows are that match.
func (c *Client) Where(ctx context.Context, q flow.Query) (w stats.Where, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return w, err
	}
	return get[stats.Where](ctx, c, http.MethodGet, "/flow?query="+url.QueryEscape(string(b)))
}

// Commit writes the external cache into the kernel.
func (c *Client) Commit(ctx context.Context) (stats.Commit, error) {
	return get[stats.Commit](ctx, c, http.MethodPost, "/commit")
}

// HandOver gives the role away, or takes that back.
func (c *Client) HandOver(ctx context.Context, h HandOver) error {
	v := url.Values{"group": {h.Group}, "wait": {h.Wait.String()}}
	if h.Force {
		v.Set("force", "1")
	}
	if h.Cancel {
		v.Set("cancel", "1")
	}
	_, err := get[struct{}](ctx, c, http.MethodPost, "/hand-over?"+v.Encode())
	return err
}

// Do runs one of the verbs: commit, flush (with ?table=), resync, bulk,
// request-resync, shorten-timers, restart, reset (with ?cache=), stop. With
// ?by=conntrackd it counts as made by a script of conntrackd's.
func (c *Client) Do(ctx context.Context, verb string) error {
	_, err := get[struct{}](ctx, c, http.MethodPost, "/"+verb)
	return err
}

// Flows hands over the entries of a cache, "internal" or "external".
func (c *Client) Flows(ctx context.Context, cache string, fn func(flow.Flow) error) error {
	return stream(ctx, c, "/cache/"+cache, fn)
}

// Expects hands over the expectations of a cache.
func (c *Client) Expects(ctx context.Context, cache string, fn func(flow.Expect) error) error {
	return stream(ctx, c, "/cache/"+cache+"/expect", fn)
}

// stream reads one JSON object a line; one with an error ends it.
func stream[T any](ctx context.Context, c *Client, path string, fn func(T) error) error {
	resp, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte(`{"error":`)) {
			var f failure
			if json.Unmarshal(lines.Bytes(), &f) == nil && f.Error != "" {
				return errors.New(f.Error)
			}
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return fmt.Errorf("read an entry: %w", err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return lines.Err()
}
