#!/bin/sh
# Reads `<number> <base64 of a script>` from the virtio port $1, runs the script, and answers
# `<number> <status> <base64 of stdout>= <base64 of stderr>=`. It becomes one line of a unit, so
# every line ends with `;` or `do`, and it contains no single quote and no percent sign.
exec 3<>"/dev/virtio-ports/$1";
d=/run/firstlight-test;
mkdir -p $d;
while :; do
while read -r n c <&3; do
echo "$c" | base64 -d >$d/script;
sh $d/script >$d/out 2>$d/err </dev/null 3<&-;
s=$?;
echo "$n $s $(base64 -w0 $d/out)= $(base64 -w0 $d/err)=" >&3;
done;
sleep 0.2;
done
