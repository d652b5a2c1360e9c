#!/bin/bash
# Runs every test with the race detector. A test that is skipped is a failure: a skipped test proves nothing, and on a machine
# that make deps has prepared there is no reason for one. Output of passing tests is left out; the lines of go test stay.
set -euo pipefail
go=${GO:-go}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

status=0
"$go" test -race -count=1 -timeout 20m -v ./... >"$log" 2>&1 || status=$?
if [ $status != 0 ]; then
	grep -vE '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS' "$log" || true
	exit $status
fi
if grep -E '^ *--- SKIP' "$log"; then
	echo "make test: the tests above were skipped; nothing may be" >&2
	exit 1
fi
grep -E '^(ok|FAIL|\?)\s' "$log"
echo "$(grep -cE '^ *--- PASS' "$log") passed, 0 failed, 0 skipped"
