#!/bin/sh
# Joins a prepared host. An administrator runs this on one host after another.
# shellcheck disable=SC2086 # a command and a list of options
$JOIN_COMMAND $CONTROL_PLANE --ignore-preflight-errors=SystemVerification,NumCPU --node-name "$NAME" \
  --cri-socket unix:///run/containerd/containerd.sock
if [ -n "$CONTROL_PLANE" ]; then
  export KUBECONFIG=/etc/kubernetes/admin.conf
else
  export KUBECONFIG=/etc/kubernetes/kubelet.conf
fi
kubectl wait --for=condition=Ready "node/$NAME" --timeout=1800s
