#!/bin/sh
# Sets up hostname, network and containerd, and imports the images.
hostnamectl hostname "$NAME" || hostname "$NAME"
card=$(basename "$(dirname "$(grep -l "$MAC" /sys/class/net/*/address)")")
ip link set "$card" up
ip addr add "$ADDRESS/24" dev "$card"
cat >>/etc/hosts <<END
$HOSTS
END
# An empty store, in place of the one with the images that imagegen has unpacked.
sed 's|^root = .*|root = "/var/lib/containerd-baseline"|' /etc/containerd/config.toml >/run/containerd.toml
grep -q containerd-baseline /run/containerd.toml
mount --bind /run/containerd.toml /etc/containerd/config.toml
systemctl restart containerd
mkdir -p /run/images
mount -o ro /dev/vdb /run/images
for archive in /run/images/*.tar; do ctr --namespace k8s.io images import "$archive"; done
systemctl enable kubelet || true
