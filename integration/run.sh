#!/bin/sh
# run.sh GO ARGUMENTS...: go test with these arguments. Prints what fails and
# what was skipped; with CI=true a skipped test is a failure.
set -u
go=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$go" test -v "$@" >"$log" 2>&1
status=$?
if [ $status = 0 ]; then
	grep -E '^(ok|\?)' "$log"
else
	grep -vE '^=== |^\s*--- PASS|^\s*$' "$log"
fi
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
