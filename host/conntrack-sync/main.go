// Command conntrack-sync is the reference host, and the operator's command:
// "run" keeps the engine running, the other verbs talk to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/conntrack-sync/conntrack-sync/host/show"
	"github.com/spf13/cobra"
)

var version = "unknown" // set by the linker

// env is the world of a run.
type env struct {
	stdout, stderr io.Writer
	now            func() time.Time
	executable     func() (string, error)
}

func main() {
	started := time.Now() // of a notification; the first thing that happens
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, env{stdout: os.Stdout, stderr: os.Stderr, now: func() time.Time { return started }, executable: os.Executable}, verbs(os.Args))
	stop()
	os.Exit(code)
}

// verbs are the words of a command line. Called as conntrackd, the program does
// what that does.
func verbs(argv []string) []string {
	if filepath.Base(argv[0]) == conntrackdName {
		return append([]string{conntrackdName}, argv[1:]...)
	}
	return argv[1:]
}

// usageError makes the exit status 2.
type usageError struct{ error }

const defaultRunDir = "/run/conntrack-sync"

// run carries out a command line: 0 is success, 1 a failure, 2 a wrong use.
func run(ctx context.Context, e env, args []string) (exitCode int) {
	root := newRoot(&e)
	root.SetArgs(args)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "conntrack-sync: %v (try --help)\n", err)
		return 2
	}
	fmt.Fprintln(e.stderr, explain(err))
	return 1
}

// explain adds to an error what can be done about it, where that is known; it
// stays one line.
func explain(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("%v (run it as root, or as the user conntrack-sync runs as)", err)
	}
	return err.Error()
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "conntrack-sync",
		Short:         "Connection-state failover for router pairs that keepalived manages",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          needVerb,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	o := &options{env: e}
	root.PersistentFlags().StringVar(&o.runDir, "run-dir", defaultRunDir, "directory of the control socket")
	root.AddCommand(runCommand(o), checkCommand(o), importCommand(o), conntrackdCommand(o), notifyCommand(o), handOverCommand(o), showCommand(o), versionCommand(o))
	root.AddCommand(verbCommands(o)...)
	return root
}

// options are what the verbs share.
type options struct {
	*env
	runDir string
	json   bool
	format show.Format
}

// warn says what went wrong and does no harm.
func (o *options) warn(err error) {
	if err != nil {
		fmt.Fprintf(o.stderr, "conntrack-sync: warning: %v\n", err)
	}
}

func (o *options) jsonFlag(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON document")
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("%sunknown word %q%s", after(c), args[0], choice(c))}
}

// needVerb is for commands that only group others.
func needVerb(c *cobra.Command, _ []string) error {
	return usageError{fmt.Errorf("%sa word is missing%s", after(c), choice(c))}
}

// after names the words that were understood.
func after(c *cobra.Command) string {
	_, words, _ := strings.Cut(c.CommandPath(), " ")
	if words == "" {
		return ""
	}
	return words + ": "
}

// choice names the words that may follow; the program itself has too many.
func choice(c *cobra.Command) string {
	var words []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			words = append(words, sub.Name())
		}
	}
	if len(words) == 0 || !c.HasParent() {
		return ""
	}
	return ", want one of: " + strings.Join(words, " ")
}

// exactly demands a number of words.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%swant %s", after(c), what)}
		}
		return nil
	}
}

func versionCommand(o *options) *cobra.Command {
	return o.jsonFlag(&cobra.Command{Use: "version", Short: "Print the version", Args: noArgs, RunE: func(*cobra.Command, []string) error {
		if o.json {
			return show.JSON(o.stdout, map[string]string{"version": version})
		}
		_, err := fmt.Fprintln(o.stdout, version)
		return err
	}})
}
