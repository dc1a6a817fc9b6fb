#!/bin/sh
# Runs a script beside dockerd, in namespaces that end with it.
# Arguments: docker's data folder, the folder of layers, the script.
set -e
data=$1 images=$2 script=$3
PATH=$DOCKER_PATH LD_LIBRARY_PATH=$DOCKER_LIBRARIES DOCKER_HOST=unix:///run/docker.sock
export PATH LD_LIBRARY_PATH DOCKER_HOST
mount -t tmpfs tmpfs /run
# What docker reads below /usr/share is only what images link to.
mount -t tmpfs tmpfs /usr/share
mkdir -p /usr/share/firstlight/images
mount --bind "$images" /usr/share/firstlight/images
dockerd --data-root "$data" --exec-root /run/docker --pidfile /run/docker.pid --host "$DOCKER_HOST" \
  --bridge=none --iptables=false --storage-driver=overlay2 >"$data.log" 2>&1 &
tries=0
until docker version >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" = 300 ]; then
    cat "$data.log" >&2
    exit 1
  fi
  sleep 0.5
done
sh "$script"
kill "$(cat /run/docker.pid)"
wait
