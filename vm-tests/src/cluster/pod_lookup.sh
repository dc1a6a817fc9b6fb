#!/bin/sh
# Looks up the address of the name $1 at the DNS server $2, an address of socat, from the network
# namespace of the pod on this host, with programs of the host: a request of RFC 1035 over UDP for
# type $3, and the last bytes of the answer, which are the address: four of type 1 (A), sixteen of
# type 28 (AAAA).
pod=$(pgrep -o -f TCP6-LISTEN:8080)
server=$2
kind=$3
question=
for label in $(echo "$1" | tr . ' '); do
  question="$question$(printf '\\%03o' ${#label})$label"
done
question="$question\\000\\000$(printf '\\%03o' "$kind")\\000\\001"
case $kind in
  1) length=4 ;;
  *) length=16 ;;
esac
for _ in 1 2 3 4 5 6 7 8 9 10; do
  # shellcheck disable=SC2059 # the question is a format: its octal escapes are bytes
  answer=$(printf "\000\001\001\000\000\001\000\000\000\000\000\000$question" |
    nsenter -n -t "$pod" timeout 30 socat -t 20 - "$server" |
    od -An -v -tu1 | tr -s ' \n' ' ')
  # shellcheck disable=SC2086 # the bytes of the answer
  set -- $answer
  # The eighth byte counts the records: the answer is one, with the address at its end.
  if [ $# -gt 32 ] && [ "$8" -gt 0 ]; then
    while [ $# -gt $length ]; do shift; done
    if [ $length = 4 ]; then
      echo "$1.$2.$3.$4"
    else
      # Eight groups of two bytes.
      printf '%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x\n' "$@"
    fi
    exit
  fi
  sleep 2
done
echo "no address from $server" >&2
exit 1
