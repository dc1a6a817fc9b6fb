#!/bin/sh
# A package's hook: it reads the root and the package, and changes the root and its state.
set -e
echo adapting
grep -q trixie /etc/os-release
# shellcheck disable=SC2012 # one file with a plain name
echo "adapted from $(ls "$FIRSTLIGHT_PACKAGE/conf/net")" >/etc/adapted
echo state >/var/lib/adapted
