#!/bin/sh
# small_debian.sh TREE ROOT
# Copies from the Debian tree TREE what a systemd machine needs to ROOT.
set -e
tree=$1 root=$2
for folder in usr/lib usr/share dev proc sys run tmp var root; do mkdir -p "$root/$folder"; done
cd "$tree"
for link in bin sbin lib lib64; do cp -a "$link" "$root/"; done
cp -a etc "$root/"
cp -a usr/bin usr/sbin usr/lib64 "$root/usr/"
rm -f "$root"/usr/bin/qemu*
cd usr/lib
cp -a os-release systemd udev x86_64-linux-gnu "$root/usr/lib/"
rm -rf "$root/usr/lib/x86_64-linux-gnu/qemu"
rm -f "$root/etc/machine-id"
: >"$root/etc/machine-id"
echo >"$root/etc/fstab"
