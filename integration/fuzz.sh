#!/bin/sh
# Runs every fuzzer of the tree for a while: fuzz.sh GO TIME
set -eu
go=$1 time=$2
"$go" list ./... | while read -r pkg; do
	dir=$("$go" list -f '{{.Dir}}' "$pkg")
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | while read -r f; do
		echo "$pkg $f"
		"$go" test -run '^$' -fuzz "^$f\$" -fuzztime "$time" "$pkg"
	done
done
