#!/bin/sh
# Makes the pairs for FIRSTLIGHT_NETPLAN_CASES: for each FROM/*.yaml that netplan's generator of
# Debian 13 takes, a copy in TO and the files that it makes, each behind a line "### NAME". netplan's
# own examples are in its source package (`apt-get source netplan.io`). Needs mmdebstrap.
#
#   sh userdata/tests/netplan_pairs.sh FROM TO
#   FIRSTLIGHT_NETPLAN_CASES=TO cargo test -p userdata --lib networkd_units
set -eu
from=$1
to=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=extract --include=netplan-generator trixie "$work/debian" \
  "${FIRSTLIGHT_DEBIAN_MIRROR:-http://deb.debian.org/debian}"
mkdir -p "$to"
for case in "$from"/*.yaml; do
  root=$work/root
  rm -rf "$root"
  mkdir -p "$root/etc/netplan"
  install -m 600 "$case" "$root/etc/netplan/case.yaml"
  # The loader of the tree, so that the libraries are Debian's too.
  "$work/debian/usr/lib64/ld-linux-x86-64.so.2" \
    --library-path "$work/debian/usr/lib/x86_64-linux-gnu" \
    "$work/debian/usr/libexec/netplan/generate" --root-dir "$root" 2>/dev/null || continue
  [ -d "$root/run/systemd/network" ] || continue
  cp "$case" "$to/"
  for file in "$root/run/systemd/network"/*; do
    printf '### %s\n' "$(basename "$file" | sed 's/^10-netplan-//')"
    cat "$file"
  done >"$to/$(basename "$case" .yaml).networkd"
done
