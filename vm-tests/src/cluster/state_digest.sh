#!/bin/sh
# Prints digests of all files that firstboot and kubeadm have written. Files that change while a
# host runs are left out.
cd / || exit
find etc/kubernetes etc/firstlight etc/hostname etc/hosts etc/systemd/network -type f \
  -exec sha256sum {} + 2>/dev/null | sort -k2
sha256sum var/lib/kubelet/config.yaml
