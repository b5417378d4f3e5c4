# Sourced by the scripts: images made of Debian packages, and a registry that serves them.
# shellcheck shell=bash

# Unpack Debian packages, and what they depend on, into a folder: root_of FOLDER PACKAGE...
root_of() {
    local root debs deb
    # apt takes a relative path for one of its own.
    root=$(realpath -m "$1") debs=$root.debs
    shift
    mkdir -p "$root" "$debs/partial"
    : >"$debs/status"
    # As if nothing were installed: every dependency comes along.
    apt-get -qq -y -o Dir::State::status="$debs/status" -o Debug::NoLocking=1 -o Dir::Cache::archives="$debs" \
        --no-install-recommends --download-only install "$@"
    for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$root"; done
    # Not needed to run anything, and most of the bytes.
    rm -rf "${debs:?}" "$root"/usr/share/{doc,man,locale,perl} "$root"/usr/lib/x86_64-linux-gnu/{perl,libperl*}
}

# Write an image in skopeo's dir: format: image FOLDER CONFIG LAYER...   CONFIG is the JSON of Docker's Config; each LAYER a folder.
image() {
    local out=$1 config=$2 layer sum diffs='' layers=''
    shift 2
    mkdir -p "$out"
    echo 'Directory Transport Version: 1.1' >"$out/version"
    for layer; do
        tar -C "$layer" --sort=name --numeric-owner --owner=0 --group=0 -cf "$out/layer.tar" .
        diffs+=",\"sha256:$(sha256sum "$out/layer.tar" | cut -d' ' -f1)\""
        gzip -1 -n -f "$out/layer.tar"
        sum=$(sha256sum "$out/layer.tar.gz" | cut -d' ' -f1)
        layers+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$sum\""
        layers+=",\"size\":$(stat -c %s "$out/layer.tar.gz")}"
        mv "$out/layer.tar.gz" "$out/$sum"
    done
    printf '{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$config" "${diffs#,}" >"$out/config"
    sum=$(sha256sum "$out/config" | cut -d' ' -f1)
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' \
        "$sum" "$(stat -c %s "$out/config")" "${layers#,}" >"$out/manifest.json"
    mv "$out/config" "$out/$sum"
}

# A root of Debian's static busybox: busybox_root FOLDER
busybox_root() {
    local name
    mkdir -p "$1"/{bin,etc,root,tmp}
    chmod 1777 "$1/tmp"
    cp /bin/busybox "$1/bin/busybox"
    for name in $(/bin/busybox --list); do
        [ "$name" = busybox ] || ln -sf busybox "$1/bin/$name"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
    echo 'root:x:0:' >"$1/etc/group"
}

# Serve images: registry FOLDER ADDRESS COMMAND...   COMMAND is put before `docker-registry`, to run it somewhere else.  Sets
# REGISTRY_PID.
registry() {
    local folder=$1 address=$2
    shift 2
    mkdir -p "$folder"
    cat >"$folder/config.yml" <<EOF
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $folder/data}}
http: {addr: '$address'}
EOF
    "$@" docker-registry serve "$folder/config.yml" >"$folder/log" 2>&1 &
    # Used by who has sourced this.
    # shellcheck disable=SC2034
    REGISTRY_PID=$!
    local tries=0
    until "$@" curl -fsS "http://$address/v2/" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { cat "$folder/log" >&2; return 1; }
    done
}
