#!/bin/sh
# Prints the servers that IPVS has assigned to kubelet's connections: one line, sorted. $1 is the
# VIP as a regular expression. The kernel writes addresses and ports in ip_vs_conn in hexadecimal.
ss -Htnp state established |
  sed -n "s/.*:\([0-9]*\) *$1:6443 .*\"kubelet\".*/\1/p" |
  while read -r port; do
    awk -v port="$(printf '%04X' "$port")" \
      '$3 == port && $8 == "ESTABLISHED" { print $6 }' /proc/net/ip_vs_conn
  done | sort -u | tr '\n' ' '
