#!/bin/sh
# Prints the apiservers with a weight above zero behind the virtual IP: one line, sorted. kube-proxy's
# own Services have other ports.
ipvsadm -Ln |
  sed -n '/^TCP  *[^ ]*:6443 /,/^[A-Z]/s/^ *-> \([][0-9a-f.:]*:6443\) *[A-Za-z]* *[1-9][0-9]* .*/\1/p' |
  sort | tr '\n' ' '
