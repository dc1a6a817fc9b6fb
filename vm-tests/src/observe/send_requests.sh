#!/bin/sh
# send_requests.sh DOMAIN FILE Sends one GET /readyz after another, and appends the uptime before,
# the uptime after and the status line or error to FILE. Each request has a connection of its own,
# because IPVS assigns a server to each new connection.
while :; do
  read -r from _ </proc/uptime
  answer=$(printf 'GET /readyz HTTP/1.0\r\n\r\n' |
    timeout 10 openssl s_client -quiet -verify_return_error -verify_hostname "$1" \
      -CAfile /etc/kubernetes/pki/ca.crt -connect "$1:6443" 2>&1 |
    grep '^HTTP\|rror' | head -n1)
  read -r to _ </proc/uptime
  echo "$from $to $answer" >>"$2"
done
