#!/bin/sh
# sealos's name for "install the runtime"; this package's runtime is containerd.
# imagegen does the same natively while it builds the image (units, configuration, programs below /usr). This script is
# for a live Debian 13 host: sh docker.sh, as root, from anywhere. Running it again changes nothing.
set -eu
package=$(cd "$(dirname "$0")/.." && pwd)

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar -xzf "$package/containerd/containerd.tar.gz" -C "$unpacked"
install -m 0755 "$unpacked"/bin/* /usr/bin/
mkdir -p /opt/cni/bin /etc/cni/net.d
install -m 0755 "$unpacked"/cni/bin/* /opt/cni/bin/

install -D -m 0644 "$package/conf/containerd-config.toml" /etc/containerd/config.toml
install -D -m 0644 "$package/conf/containerd.service" /etc/systemd/system/containerd.service
install -D -m 0644 "$package/conf/crictl.yaml" /etc/crictl.yaml
systemctl daemon-reload
systemctl enable --now containerd.service
