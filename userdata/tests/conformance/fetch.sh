#!/bin/sh
# fetch.sh FOLDER: the newest source packages of cloud-init and netplan that Debian's mirror has,
# unpacked as FOLDER/cloud-init and FOLDER/netplan. apt checks their signatures.
set -eu
folder=$1
mirror=${FIRSTLIGHT_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$folder"
cd "$folder"
apt() {
    apt-get -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root "$@"
}
for suite in sid trixie; do
    rm -rf lists cache ./*.dsc ./*.tar.*
    mkdir -p lists/partial cache/archives/partial
    echo "deb-src [signed-by=$keys] $mirror $suite main" > sources.list
    if apt update && apt source --download-only cloud-init netplan.io; then
        break
    fi
done
for name in cloud-init netplan; do
    rm -rf "$name"
    mkdir "$name"
    tar --extract --file "$(ls "$name"*.orig.tar.gz)" --directory "$name" --strip-components 1
    basename "$name"*.orig.tar.gz .orig.tar.gz > "$name.version"
done
rm -rf lists cache sources.list
