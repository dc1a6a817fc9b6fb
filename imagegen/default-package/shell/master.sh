#!/bin/sh
# What the first master needs after `kubeadm init`, the sealos way: sh master.sh, as root. firstboot does this on master0
# (with the topology's networks in conf/kubeadm.yaml); by hand, after init.sh:
#
#   kubeadm init --config my-kubeadm.yaml     # conf/kubeadm.yaml plus podSubnet: 10.244.0.0/16, as in conf/net
#   sh master.sh
set -eu
package=$(cd "$(dirname "$0")/.." && pwd)
export KUBECONFIG="${KUBECONFIG:-/etc/kubernetes/admin.conf}"

for manifest in "$package"/conf/net/*.yaml; do
    kubectl apply --filename "$manifest"
done
