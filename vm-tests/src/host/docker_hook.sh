#!/bin/sh
# A package's build hook: the library of Debian's dockerd, which the node image does not have.
set -e
cp "$FIRSTLIGHT_PACKAGE"/hooks/lib/* /usr/lib/x86_64-linux-gnu/
