#!/bin/sh
# A network namespace with a server's card and, in a second namespace, a client's. $1 is imagegen.
# Leaves what the client got in the current folder.
set -eu
imagegen=$1
ip link set lo up
ip link add server0 type veth peer name client0 address 52:54:00:00:07:10
ip address add 192.168.7.1/24 dev server0
ip link set server0 up
mount -t tmpfs tmpfs /run
ip netns add client
ip link set client0 netns client
ip -n client link set client0 up
ip -n client address add 192.168.7.200/24 dev client0

"$imagegen" serve prod --interface server0 --dhcp full >serve.log 2>&1 &
tries=0
until grep -q 'switch them on' serve.log && ss --no-header --udp --listening --numeric | grep -q ':69 '; do
  tries=$((tries + 1))
  if [ "$tries" = 600 ] || ! kill -0 $!; then
    cat serve.log
    exit 1
  fi
  sleep 0.1
done
in_room() { ip netns exec client curl --silent --show-error --max-time 60 --noproxy '*' "$@"; }
# Without a lost packet, for which a client waits a second and more.
in_room --max-time 3 --output got.efi tftp://192.168.7.1/snponly.efi
in_room --max-time 3 --output got.autoexec tftp://192.168.7.1/autoexec.ipxe
# A missing file has an answer: 68 is "not found", 28 would be silence.
missing=0
in_room --max-time 3 tftp://192.168.7.1/missing >/dev/null 2>&1 || missing=$?
if [ "$missing" != 68 ]; then exit 5; fi
# TFTP has nothing else, and takes nothing.
# dnsmasq does not answer some of these, and curl waits.
if in_room --max-time 3 tftp://192.168.7.1/../dnsmasq.conf >/dev/null 2>&1; then exit 2; fi
if in_room --max-time 3 --upload-file got.efi tftp://192.168.7.1/new >/dev/null 2>&1; then exit 3; fi
server=http://192.168.7.1:8069
in_room --fail --output got.user-data "$server/hosts/52-54-00-00-07-10/user-data"
in_room --output got.refused "$server/hosts/52-54-00-00-07-11/user-data"
kill $!
wait $! || true
# dnsmasq ends with it.
if pgrep -x dnsmasq >/dev/null; then exit 4; fi
