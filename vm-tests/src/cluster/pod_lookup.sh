#!/bin/sh
# Looks up the address of the name $1 at the DNS server $2, from the network namespace of the pod on
# this host, with programs of the host: a request of RFC 1035 over UDP, and the last four bytes of
# the answer, which are the address.
pod=$(pgrep -o -f TCP-LISTEN:8080)
question=
for label in $(echo "$1" | tr . ' '); do
  question="$question$(printf '\\%03o' ${#label})$label"
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
  # shellcheck disable=SC2059 # the question is a format: its octal escapes are bytes
  answer=$(printf "\000\001\001\000\000\001\000\000\000\000\000\000$question\000\000\001\000\001" |
    nsenter -n -t "$pod" timeout 30 socat -t 20 - "UDP:$2:53" |
    od -An -v -tu1 | tr -s ' \n' ' ')
  # shellcheck disable=SC2086 # the bytes of the answer
  set -- "$1" "$2" $answer
  # A header of twelve bytes, the question, and one record with an address at its end.
  if [ $# -gt 32 ]; then
    while [ $# -gt 4 ]; do shift; done
    echo "$1.$2.$3.$4"
    exit
  fi
  set -- "$1" "$2"
  sleep 2
done
echo "no answer of $2" >&2
exit 1
