#!/bin/sh
# Runs the integration tests. Without root it runs what it can and names what
# it skipped; with CI=true a skipped test is a failure.
set -u
go=${1:-go}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$go" test -count=1 -timeout 30m -v ./integration/... >"$log" 2>&1
status=$?
grep -E '^(=== RUN|=== PAUSE|=== CONT)' -v "$log" | grep -vE '^\s+--- PASS|^\s*$' || true
skipped=$(grep -E '^\s*--- SKIP' "$log")
if [ -n "$skipped" ]; then
	echo "skipped (these need root and the tools of integration/install.sh):"
	echo "$skipped"
	if [ "${CI:-}" = true ]; then
		echo "CI=true: a skipped test is a failure"
		exit 1
	fi
fi
exit $status
