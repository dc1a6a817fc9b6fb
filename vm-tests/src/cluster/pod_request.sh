#!/bin/sh
# Connects to $1, an address of socat, from the network namespace of the pod on this host, with
# programs of the host. It retries, because routes and Services reach a host with a delay. After the
# last try it prints the error of socat.
pod=$(pgrep -o -f TCP6-LISTEN:8080)
for _ in 1 2 3 4 5 6 7 8 9 10; do
  nsenter -n -t "$pod" timeout 30 socat -u "$1" STDOUT 2>/run/asked && exit
  sleep 2
done
cat /run/asked >&2
exit 1
