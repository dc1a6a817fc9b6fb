#!/bin/sh
# Makes a live Debian 13 host ready for kubeadm, the sealos way: sh init.sh, as root. Running it again changes nothing.
# imagegen does all of this natively while it builds the image: programs on PATH, units, kernel modules and settings,
# swap off, and the images unpacked into containerd's store, so that first boot imports nothing.
set -eu
package=$(cd "$(dirname "$0")/.." && pwd)

# Programs. conntrack and runc need Debian's libnetfilter-conntrack3 and libseccomp2.
install -m 0755 "$package"/bin/* /usr/bin/

# Kernel: pod traffic is forwarded, and passes iptables on bridges too.
cat >/etc/modules-load.d/kubernetes.conf <<'MODULES'
overlay
br_netfilter
ip_vs
ip_vs_rr
nf_conntrack
MODULES
cat >/etc/sysctl.d/90-kubernetes.conf <<'SYSCTL'
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
SYSCTL
while read -r module; do modprobe "$module" || echo "init.sh: no kernel module $module, going on" >&2; done </etc/modules-load.d/kubernetes.conf
sysctl --quiet --load /etc/sysctl.d/90-kubernetes.conf

# Swap, now and at the next boot.
swapoff -a
sed -i '/^[^#].*[[:space:]]swap[[:space:]]/s/^/#/' /etc/fstab

# A host firewall that knows nothing of pods drops their packets.
for unit in firewalld.service ufw.service; do
    if systemctl --quiet is-enabled "$unit" 2>/dev/null; then systemctl disable --now "$unit"; fi
done

sh "$package/shell/docker.sh"
for archive in "$package"/images/*.tar; do
    ctr --namespace k8s.io images import "$archive"
done

install -D -m 0644 "$package/conf/kubelet.service" /etc/systemd/system/kubelet.service
install -D -m 0644 "$package/conf/10-kubeadm.conf" /etc/systemd/system/kubelet.service.d/10-kubeadm.conf
systemctl daemon-reload
systemctl enable kubelet.service
