#!/bin/sh
# As a person loads an archive.
set -e
docker load --input "$ARCHIVE" >/dev/null
