#!/bin/sh
# record_changes.sh FILE SCRIPT [ARGUMENT...]
# Runs SCRIPT ten times a second, and appends the uptime and the output to FILE when the output has
# changed. The first output is a change unless it is empty.
file=$1 script=$2
shift 2
last=
while :; do
  # shellcheck source=/dev/null
  now=$(. "$script")
  if [ "$now" != "$last" ]; then
    read -r at _ </proc/uptime
    echo "$at $now" >>"$file"
    last=$now
  fi
  sleep 0.1
done
