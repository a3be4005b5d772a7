package show

import (
	"bytes"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

func TestRoutes(t *testing.T) {
	var b bytes.Buffer
	err := Routes(&b, stats.Routes{Configured: true, Speaker: "gobgpd at 127.0.0.1:50051", Connected: true, Since: "2021-12-24T09:00:00Z", AS: 65001, Established: 1,
		Sessions: []stats.RouteSession{{Neighbor: "203.0.113.10", AS: 65000, State: "ESTABLISHED", Up: true}, {Neighbor: "fd02::10", AS: 65000, State: "ACTIVE"}},
		Groups:   []stats.RouteGroup{{Group: "SG", Level: "master", Generation: 2, Why: "MASTER and committed", Taken: true}},
		Routes: []stats.Route{
			{Prefix: "198.51.100.0/24", Group: "SG", Level: "master", Text: "med 98, 65001:77", Since: "2021-12-24T10:34:36Z", Why: "MASTER and committed"},
			{Prefix: "2001:db8:5::/48", Group: "SG", Why: "MASTER and committed", Error: "nexthop not found"}},
		Problems: []string{"routes: 2001:db8:5::/48 cannot be announced: nexthop not found"}})
	if err != nil {
		t.Error(err)
	}
	golden(t, "routes.txt", b.String())
	b.Reset()
	if err := Routes(&b, stats.Routes{}); err != nil {
		t.Error(err)
	}
	golden(t, "routes-none.txt", b.String())
}
