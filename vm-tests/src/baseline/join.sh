#!/bin/sh
# Joins a prepared host. An administrator runs this on one host after another.
join() {
  # shellcheck disable=SC2086 # a command and a list of options
  $JOIN_COMMAND $CONTROL_PLANE --ignore-preflight-errors=SystemVerification --node-name "$NAME" \
    --cri-socket /run/containerd/containerd.sock "$@"
}
if [ -n "$CONTROL_PLANE" ]; then
  export KUBECONFIG=/etc/kubernetes/admin.conf
  # kubelet 1.20 rejects the pod of etcd, which requests ephemeral-storage, until it has reported
  # its capacity, and never retries. kubeadm does not wait for that. Without this wait the cluster
  # can end up with two etcd members, one of which never starts, and so without a quorum.
  join --skip-phases=control-plane-join
  until kubectl get "node/$NAME" -o 'jsonpath={.status.allocatable.ephemeral-storage}' | grep .; do
    sleep 5
  done
  join --skip-phases=preflight,control-plane-prepare,check-etcd,kubelet-start
else
  export KUBECONFIG=/etc/kubernetes/kubelet.conf
  join
fi
kubectl wait --for=condition=Ready "node/$NAME" --timeout=1800s
