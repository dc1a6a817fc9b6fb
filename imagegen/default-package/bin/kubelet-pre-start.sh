#!/bin/sh
# Runs before every start of kubelet: what kubelet needs of the kernel and what something may have undone since boot.
# The image has all of this already (modules-load.d, sysctl.d); each line changes nothing where it holds.
# A failure is said and does not keep kubelet from starting: kubelet's own checks name what is really missing.
set -u

# Swap makes memory limits meaningless.
if [ "$(wc -l </proc/swaps)" -gt 1 ]; then
    swapoff -a || echo "kubelet-pre-start: swap could not be switched off" >&2
fi

# br_netfilter lets Services work for pods on bridges, and kubeadm insists on it.
for module in overlay br_netfilter; do
    [ -d "/sys/module/$module" ] || modprobe "$module" || echo "kubelet-pre-start: no kernel module $module" >&2
done

for setting in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables; do
    file=/proc/sys/$setting
    [ -e "$file" ] || continue
    [ "$(cat "$file")" = 1 ] || echo 1 >"$file" || echo "kubelet-pre-start: $setting stays off" >&2
done
exit 0
