#!/bin/sh
# Initialises the first control-plane host.
base64 -d >/run/kubeadm.yaml <<END
$KUBEADM_CONFIG
END
# SystemVerification needs a kernel configuration file, which the image does not have.
# shellcheck disable=SC2086 # lists of options
kubeadm init --config /run/kubeadm.yaml $SKIP_PHASES --skip-token-print \
  --ignore-preflight-errors=SystemVerification,NumCPU $UPLOAD_CERTS
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f /usr/share/firstlight/conf/net
kubectl wait --for=condition=Ready "node/$NAME" --timeout=1800s
