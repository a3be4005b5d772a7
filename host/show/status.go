package show

import (
	"fmt"
	"io"
	"strings"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// Status writes the four lines of "show conntrack-sync status".
func Status(w io.Writer, s stats.Status) error {
	transition := s.LastTransition
	if transition == "" {
		transition = "no transition yet!"
	}
	expect := "disabled"
	if len(s.SyncProtocols) > 0 {
		expect = strings.Join(s.SyncProtocols, ", ")
	}
	_, err := fmt.Fprintf(w, "%-22s: %s\n%-22s: vrrp [sync-group %s]\n%-22s: %s\n%-22s: %s\n",
		"sync-interface", s.SyncInterface, "failover-mechanism", s.SyncGroup,
		"last state transition", transition, "ExpectationSync", expect)
	return err
}
