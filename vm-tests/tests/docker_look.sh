#!/bin/sh
# What docker says of its images: names and ids, their files as a container sees them without those that docker makes
# for each, and what `docker save` writes.
set -e
docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}' | sort
for image in $(docker images --format '{{.Repository}}:{{.Tag}}' | sort); do
  echo "== $image"
  docker inspect --format '{{json .RootFS}} {{.Architecture}} {{.Os}} {{json .RepoTags}}' "$image"
  container=$(docker create "$image" /program)
  docker export "$container" | tar --numeric-owner -tvf - | grep -v ' dev/\| etc/\| proc/\| sys/\|\.dockerenv' | sort
  docker rm "$container" >/dev/null
  docker save "$image" | sha256sum
done
