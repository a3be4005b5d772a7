package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/conntrack-sync/conntrack-sync/plugin/contract"
	"github.com/conntrack-sync/conntrack-sync/sync/flow"
	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Texts an operator knows from VyOS.
var (
	ErrNotRunning = errors.New("conntrack-sync is not running")
	//lint:ignore ST1005 the text is VyOS's, which operators and scripts know
	ErrNotConfigured = errors.New("conntrack-sync is not configured!")
	ErrNoEngine      = errors.New("the engine is not running at the moment; see the log, it is started again by itself")
)

func socketPath(runDir string) string { return filepath.Join(runDir, "control.sock") }

// serveControl serves the operator's verbs: HTTP over a unix socket that only
// the owner of the process can open. Documents are those of package stats,
// flows one JSON object a line.
func (s *Shim) serveControl(ctx context.Context) error {
	path := socketPath(s.opt.RunDir)
	_ = os.Remove(path) // the lock says that its owner is gone
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	srv := &http.Server{Handler: s.routes(), BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() {
		done, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(done) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

func (s *Shim) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.Status(r.Context())
		answer(w, st, err)
	})
	m.HandleFunc("GET /transitions", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Transitions(), nil)
	})
	m.HandleFunc("GET /statistics", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		st, err := e.Statistics(r.Context())
		answer(w, st, err)
	}))
	m.HandleFunc("POST /hand-over", func(w http.ResponseWriter, r *http.Request) {
		wait, _ := time.ParseDuration(r.FormValue("wait"))
		answer(w, struct{}{}, s.HandOver(r.Context(), HandOver{Group: r.FormValue("group"), Wait: wait,
			Force: r.FormValue("force") != "", Cancel: r.FormValue("cancel") != ""}))
	})
	m.HandleFunc("GET /routes", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.configured():
			answer(w, nil, ErrNotConfigured)
		case s.opt.Routes == nil:
			answer(w, stats.Routes{}, nil)
		default:
			answer(w, s.opt.Routes(), nil)
		}
	})
	m.HandleFunc("POST /restart", func(w http.ResponseWriter, r *http.Request) {
		if !s.configured() {
			answer(w, nil, ErrNotConfigured)
			return
		}
		answer(w, struct{}{}, s.restart(r.Context()))
	})
	m.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		s.log.Info("stopping as asked over the control socket")
		answer(w, struct{}{}, nil)
		s.stop()
	})
	m.HandleFunc("POST /reset", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		reset := resetExternal
		if r.FormValue("cache") == "internal" {
			reset = resetInternal
		}
		answer(w, struct{}{}, reset(r.Context(), e))
	}))
	m.HandleFunc("GET /cache/internal/expect", s.withEngine(expects(contract.Internal)))
	m.HandleFunc("GET /cache/external/expect", s.withEngine(expects(contract.External)))
	m.HandleFunc("GET /diff", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		d, err := e.Diff(r.Context())
		answer(w, d, err)
	}))
	m.HandleFunc("GET /commit", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		c, err := e.CommitReport(r.Context())
		answer(w, c, err)
	}))
	m.HandleFunc("GET /flow", s.withEngine(where))
	m.HandleFunc("GET /cache/internal", s.withEngine(flows(contract.Internal)))
	m.HandleFunc("GET /cache/external", s.withEngine(flows(contract.External)))
	m.HandleFunc("POST /commit", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		c, err := s.commit(r.Context(), e)
		answer(w, c, err)
	}))
	m.HandleFunc("POST /flush", s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		t := map[string]contract.Table{"internal": contract.Internal, "external": contract.External}[r.FormValue("table")]
		answer(w, struct{}{}, e.Flush(r.Context(), t))
	}))
	for path, call := range map[string]func(contract.Engine, context.Context) error{
		"POST /resync": contract.Engine.Resync, "POST /bulk": contract.Engine.Bulk,
		"POST /request-resync": contract.Engine.RequestResync, "POST /shorten-timers": contract.Engine.ShortenTimers,
	} {
		m.HandleFunc(path, s.withEngine(func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
			answer(w, struct{}{}, call(e, r.Context()))
		}))
	}
	return m
}

func (s *Shim) configured() (yes bool) {
	s.view(func() { yes = s.settings != nil })
	return yes
}

// withEngine serves what needs the engine.
func (s *Shim) withEngine(fn func(http.ResponseWriter, *http.Request, contract.Engine)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var e contract.Engine
		configured := false
		s.view(func() { e, configured = s.engine, s.settings != nil })
		switch {
		case !configured:
			answer(w, nil, ErrNotConfigured)
		case e == nil:
			answer(w, nil, ErrNoEngine)
		default:
			if r.FormValue("by") == "conntrackd" {
				s.scriptAsks(r.URL)
			}
			fn(w, r, e)
		}
	}
}

type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		v = failure{err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}

// where answers with the places of the flows that a query, in the URL as JSON,
// names.
func where(w http.ResponseWriter, r *http.Request, e contract.Engine) {
	var q flow.Query
	if err := json.Unmarshal([]byte(r.FormValue("query")), &q); err != nil {
		answer(w, nil, err)
		return
	}
	places, err := e.Where(r.Context(), q)
	answer(w, places, err)
}

// flows streams a cache. An error in the middle is the stream's last line.
func flows(t contract.Table) func(http.ResponseWriter, *http.Request, contract.Engine) {
	return func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		buf := bufio.NewWriterSize(w, 64<<10)
		enc := json.NewEncoder(buf)
		err := e.Flows(r.Context(), t, func(batch []flow.Flow) error {
			for i := range batch {
				if err := enc.Encode(batch[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			_ = enc.Encode(failure{err.Error()})
		}
		_ = buf.Flush()
	}
}

// expects answers with the expectations of a cache, one JSON object a line.
func expects(t contract.Table) func(http.ResponseWriter, *http.Request, contract.Engine) {
	return func(w http.ResponseWriter, r *http.Request, e contract.Engine) {
		all, err := e.Expects(r.Context(), t)
		if err != nil {
			answer(w, nil, err)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		for i := range all {
			if enc.Encode(all[i]) != nil {
				return // the client went away
			}
		}
	}
}
