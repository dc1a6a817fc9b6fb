#!/bin/sh
# Prints the processor time of firstboot in clock ticks (proc_pid_stat(5)) and the uptime in
# seconds.
# shellcheck disable=SC2046 # the fields become the positional parameters
set -- $(cat "/proc/$(systemctl show -P MainPID firstboot)/stat")
read -r up _ </proc/uptime
echo "$((${14} + ${15})) $up"
