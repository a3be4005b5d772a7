package conntrackdconf

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

// translator goes through the file. Sizes are gathered first: one setting here
// stands for several there.
type translator struct {
	*Result
	links       []link
	buffer      size // largest socket buffer
	events      size
	syslog      bool
	syncSection bool
}

type size struct{ mb, at int }

const none = "has no equivalent: "

// idle are the settings without an equivalent, and why that is no loss, or what
// to do instead.
var idle = map[string]string{
	"ackwindowsize":        "acknowledgements are paced by the protocol",
	"cachetimeout":         "an entry lives until its end is reported or the tables are compared",
	"committimeout":        "an entry is committed with the timeout its last event brought, 30 s at least",
	"disableinternalcache": "the internal cache is always kept",
	"errorqueuelength":     "what could not be sent is sent again by the protocol",
	"eventiterationlimit":  "events and the sync link are served by threads of their own",
	"hashlimit":            "the caches grow as they fill",
	"hashsize":             "the caches grow as they fill",
	"helper":               "user-space helpers are not provided; another program must",
	"netlinkbuffersize":    "the event queue begins with 16 MB",
	"nice":                 "set Nice= in the service's unit",
	"pollsecs":             "the kernel's events are always followed",
	"refreshtime":          "changes are sent at once, and what was lost again",
	"resendqueuesize":      "the resend queue grows as it fills, up to a limit of its own",
	"scheduler":            "set CPUSchedulingPolicy= in the service's unit",
	"state":                "flows are replicated in every state",
}

// silent are settings that are true here whatever they say, or say what the
// interface tells anyway.
var silent = map[string]bool{"ipv4_interface": true, "ipv6_interface": true, "systemd": true}

func (t *translator) file(all []statement) {
	for i := range all {
		s := &all[i]
		switch s.name {
		case "sync":
			t.syncSection = true
			t.each("Sync", s.block, t.syncSetting)
		case "general":
			t.each("General", s.block, t.generalSetting)
		case "stats":
			t.problem(s.line, s.shown, "the statistics mode of conntrackd is not offered")
		default:
			t.other("", s)
		}
	}
	if t.syncSection && len(t.Problems) == 0 {
		t.finish()
	}
}

// finish writes what was gathered.
func (t *translator) finish() {
	t.interfaces()
	t.size("sync-queue-size", "SndSocketBuffer and RcvSocketBuffer", t.buffer, conf.DefaultSyncQueueMB)
	t.size("event-listen-queue-size", "NetlinkBufferSizeMaxGrowth", t.events, conf.DefaultEventQueueMB)
	if !t.syslog {
		t.set(0, "disable-syslog")
	}
}

// size raises, never lowers: conntrackd's examples carry sizes of another time,
// which lose what a busy router sends.
func (t *translator) size(node, setting string, s size, usual int) {
	switch {
	case s.at == 0 || s.mb == usual:
	case s.mb < usual:
		t.note(s.at, setting, fmt.Sprintf("%d MB is less than the %d MB of %s, which are kept", s.mb, usual, node))
	default:
		t.set(s.at, node, strconv.Itoa(min(s.mb, 2047)))
	}
}

func (t *translator) each(path string, block []statement, fn func(path string, s *statement)) {
	for i := range block {
		fn(path, &block[i])
	}
}

// other is what no one else takes.
func (t *translator) other(path string, s *statement) {
	path = strings.TrimSpace(path + " " + printable(s.shown))
	switch why := idle[s.name]; {
	case silent[s.name]:
	case why != "":
		t.note(s.line, path, none+why)
	default:
		t.note(s.line, path, "is not known and has no effect")
	}
}

func (t *translator) syncSetting(path string, s *statement) {
	switch s.name {
	case "mode":
		t.mode(s)
	case "multicast", "udp":
		t.link(s)
	case "tcp":
		t.problem(s.line, path+" TCP", none+"use UDP or Multicast, on both nodes")
	case "options":
		t.each(path+" Options", s.block, t.option)
	default:
		t.other(path, s)
	}
}

func (t *translator) mode(s *statement) {
	path := "Sync Mode " + printable(s.arg())
	if strings.ToLower(s.arg()) != "ftfw" {
		t.note(s.line, path, "FT-FW is spoken instead; a conntrackd as peer must run it too")
	}
	t.each(path, s.block, func(path string, s *statement) {
		switch s.name {
		case "disableexternalcache":
			t.flag(path, s, "disable-external-cache")
		case "startupresync":
			t.flag(path, s, "startup-resync")
		case "purgetimeout":
			t.set(s.line, "purge-timeout", s.arg())
		default:
			t.other(path, s)
		}
	})
}

// flag sets a node without a value where the switch is on.
func (t *translator) flag(path string, s *statement, node string) {
	if t.on(path, s) {
		t.set(s.line, node)
	}
}

func (t *translator) on(path string, s *statement) bool {
	yes, ok := on(s.arg())
	if !ok {
		t.problem(s.line, path+" "+printable(s.shown), fmt.Sprintf("wants on or off, not %q", printable(s.arg())))
	}
	return yes
}

func (t *translator) option(path string, s *statement) {
	switch s.name {
	case "tcpwindowtracking":
		if !t.on(path, s) {
			t.note(s.line, path+" "+s.shown, none+"window scales are always replicated")
		}
	case "expectationsync":
		t.expectations(path, s)
	default:
		t.other(path, s)
	}
}

// expectWords are expect-sync's words for the kernel's names of helpers.
var expectWords = map[string]string{"ftp": "ftp", "sip": "sip", "ras": "h323", "q.931": "h323", "h.245": "h323", "rpc": "nfs", "tns": "sqlnet"}

func (t *translator) expectations(path string, s *statement) {
	if s.block == nil {
		if t.on(path, s) {
			t.set(s.line, "expect-sync", "all")
		}
		return
	}
	for i := range s.block {
		for _, helper := range s.block[i].words() {
			word := expectWords[strings.ToLower(helper)]
			if word == "" {
				t.note(s.block[i].line, path+" "+s.shown+" "+printable(helper), none+"expect-sync knows all, ftp, h323, nfs, sip and sqlnet")
				continue
			}
			t.set(s.block[i].line, "expect-sync", word)
		}
	}
}

// words are all words of a statement, of lists.
func (s *statement) words() []string { return append([]string{s.shown}, s.args...) }

func (t *translator) generalSetting(path string, s *statement) {
	switch s.name {
	case "lockfile":
		t.LockFile = s.arg()
	case "unix":
		t.each(path+" UNIX", s.block, func(path string, s *statement) {
			if s.name == "path" {
				t.Socket = s.arg()
				return
			}
			if s.name != "backlog" {
				t.other(path, s)
			}
		})
	case "logfile":
		t.logFile(s)
	case "syslog":
		yes, ok := on(s.arg())
		if t.syslog = yes || !ok; !ok && !strings.EqualFold(s.arg(), "daemon") {
			t.note(s.line, path+" "+s.shown, "facility "+printable(s.arg())+" "+none+"the log goes to facility daemon")
		}
	case "netlinkbuffersizemaxgrowth":
		t.gather(path, s, &t.events)
	case "netlinkoverrunresync":
		if yes, ok := on(s.arg()); ok && !yes {
			t.note(s.line, path+" "+s.shown, none+"after lost events the tables are always compared")
		}
	case "netlinkeventsreliable":
		if !t.on(path, s) {
			t.note(s.line, path+" "+s.shown, none+"the kernel always delivers the end of flows reliably")
		}
	case "filter":
		t.each(path+" Filter", s.block, t.filterSetting)
	default:
		t.other(path, s)
	}
}

func (t *translator) logFile(s *statement) {
	switch yes, ok := on(s.arg()); {
	case !ok:
		t.LogFile = s.arg()
	case yes:
		t.LogFile = "/var/log/conntrackd.log"
	default:
		t.LogFile = ""
	}
}

// gather keeps the largest of several sizes.
func (t *translator) gather(path string, s *statement, to *size) {
	mb, ok := megabytes(s.arg())
	if !ok {
		t.problem(s.line, path+" "+s.shown, fmt.Sprintf("%q is no number of bytes", printable(s.arg())))
		return
	}
	if mb >= to.mb {
		*to = size{mb, s.line}
	}
}
