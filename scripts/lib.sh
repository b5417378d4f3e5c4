# Sourced by the scripts: set-up of the machine, and the builds that they share.  Everything here is idempotent.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
STATIC=x86_64-unknown-linux-gnu
PYTHON="pyvmomi==9.1.1.0 jsonschema==4.26.0 docker==7.1.0"
export DEBIAN_FRONTEND=noninteractive

say() { printf '\n== %s\n' "$*"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi; }

# Install the Debian packages that are missing.
packages() {
    local missing=() p
    for p; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing packages: ${missing[*]}"
    as_root apt-get update -qq
    # Where QEMU's tools came from another suite than the emulator will, apt would rather remove them: both are brought to one
    # version instead.
    as_root apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null 2>&1 ||
        as_root apt-get install -y -qq --no-install-recommends --allow-downgrades "${missing[@]}" \
            "qemu-utils=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ {print $2}')" >/dev/null
}

# Packages and the Rust toolchain for building, and for the lab.
setup() {
    packages build-essential curl ca-certificates python3 python3-venv xorriso qemu-system-x86 qemu-utils \
        iproute2 nftables dnsmasq-base
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        export PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null; then
        say "installing the Rust toolchain"
        if apt-cache show rustup >/dev/null 2>&1; then
            packages rustup
        else
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --no-modify-path --default-toolchain none
            export PATH="$HOME/.cargo/bin:$PATH"
        fi
    fi
}

# The stock docker client: the machine's own, else Debian's.
setup_docker() { command -v docker >/dev/null || packages docker.io; }

# What the tests need beyond that.
setup_tests() {
    packages golang-go golang-github-vmware-govmomi-dev open-vm-tools e2fsprogs docker-registry tinyproxy-bin busybox-static \
        docker.io
    setup_docker
    if [ "$(cat "$TARGET/venv/has" 2>/dev/null)" != "$PYTHON" ]; then
        say "installing $PYTHON"
        python3 -m venv "$TARGET/venv"
        # shellcheck disable=SC2086
        "$TARGET/venv/bin/pip" install -q --disable-pip-version-check $PYTHON
        echo "$PYTHON" >"$TARGET/venv/has"
    fi
    export PATH="$TARGET/venv/bin:$PATH"
    command -v cargo-nextest >/dev/null || cargo install --quiet --locked cargo-nextest
}

# The endpoint VM's program, static: it is the image's only one.
build_endpoint() {
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --release --target "$STATIC" -p vic-endpoint
}

# The appliance image beside vic-machine of the given profile, where vic-machine looks for it.
build_appliance() {
    build_endpoint
    cargo build --quiet -p appliance-iso
    mkdir -p "$TARGET/debug"
    "$TARGET/debug/appliance-iso" build appliance-iso/appliance.toml --out "$TARGET/debug/appliance.iso" \
        --file "vic-endpoint=$TARGET/$STATIC/release/vic-endpoint"
}

# The containerVMs' boot image, beside it.
build_bootstrap() {
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --profile guest --target "$STATIC" -p tether
    cargo build --quiet -p appliance-iso
    mkdir -p "$TARGET/debug"
    "$TARGET/debug/appliance-iso" build bootstrap/bootstrap.toml --out "$TARGET/debug/bootstrap.iso" \
        --file "tether=$TARGET/$STATIC/guest/tether"
}

# The simulator that nobody here wrote, into the folder given.
build_vcsim() {
    (cd tests/vcsim && GO111MODULE=off GOPATH=/usr/share/gocode go build -o "$1/vcsim" .)
}
