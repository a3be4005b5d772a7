package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInstall: what `make install` puts in its place fits together: the unit
// starts the command that is there, with options it knows; the examples load; the
// completion is shell.
func TestInstall(t *testing.T) {
	bin(t)
	dir, refused := t.TempDir(), t.TempDir()
	if err := os.WriteFile(refused+"/a.conf", []byte("set service conntrack-sync nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"/usr", "/usr/local"} {
		if out, err := exec.Command("make", "-C", "..", "install", "DESTDIR="+dir, "PREFIX="+prefix).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		command := dir + prefix + "/sbin/conntrack-sync"
		unit := string(must[[]byte](t)(os.ReadFile(dir + prefix + "/lib/systemd/system/conntrack-sync.service")))
		start := regexp.MustCompile(`(?m)^ExecStart=(\S+) (.*)$`).FindStringSubmatch(unit)
		if start == nil || dir+start[1] != command {
			t.Fatalf("the unit starts %q", start)
		}
		// With --help the options are read and nothing is run.
		if out, err := exec.Command(command, append(strings.Fields(start[2]), "--help")...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", start[2], err, out)
		}
		if out, err := exec.Command("bash", "-n", dir+prefix+"/share/bash-completion/completions/conntrack-sync").CombinedOutput(); err != nil {
			t.Errorf("completion: %v\n%s", err, out)
		}
		// The engine is found in the libexec of the prefix: what stops this start is
		// the configuration.
		out, err := exec.Command(command, "run", "--conf-dir", refused, "--run-dir", dir+"/run",
			"--state-dir", dir+"/run/state", "--syslog", dir+"/none", "--keepalived-conf", dir+"/none").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "a.conf:1: ") || strings.Contains(string(out), "engine binary") {
			t.Errorf("%s: %v %s", prefix, err, out)
		}
		verifyUnit(t, strings.Replace(unit, start[1], command, 1))
	}
	examples := dir + "/usr/share/doc/conntrack-sync/examples"
	conf := must[[]byte](t)(os.ReadFile(examples + "/sync.conf"))
	one := t.TempDir()
	if err := os.WriteFile(one+"/sync.conf", []byte(strings.Replace(string(conf), "eth0", "lo", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(dir+"/usr/sbin/conntrack-sync", "check", "--conf-dir", one, "--keepalived-conf", examples+"/pair.conf").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "group syncgrp has members internal external") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// verifyUnit has systemd read the unit, where it is installed.
func verifyUnit(t *testing.T, unit string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not there: the unit was not read by systemd")
		return
	}
	path := filepath.Join(t.TempDir(), "conntrack-sync.service")
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd: %v\n%s", err, out)
	}
}
