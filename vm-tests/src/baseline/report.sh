#!/bin/sh
# Start of every script: reports go to the journal, and so does a failure of the script.
report() {
  printf 'MESSAGE_ID=%s\nMESSAGE=baseline: %s\n' "$1" "$2" | logger --journald
}
report_failure() {
  [ "$1" = 0 ] || report "$FAILED" "failed with exit status $1"
}
trap 'report_failure $?' EXIT
set -ex
