#!/usr/bin/env bash
# Builds the image and tries it, without a Docker Engine: buildah builds the Dockerfile upon a Debian root made by
# debootstrap, and test_image.py runs the result in namespaces of its own. As root, after deploy/setup.sh.
#   tests/container/run.sh [cpu|cuda]
# One line says why it was left out where that can't be done at all, with exit code 0; what is wrong with the image fails.
# Kept in build/container: the Debian root (delete it for a new one) and the build's log. What was compiled stays in ccache's
# cache, which is shared with other builds.
set -euo pipefail
cd "$(dirname "$0")/../.."

device=${1:-cpu}
case "$device" in
  cpu) cuda=0 ;;
  cuda) cuda=1 ;;
  *) echo "usage: tests/container/run.sh [cpu|cuda]" >&2; exit 2 ;;
esac

kept=$PWD/build/container
work=$kept/$device
log=$kept/$device.log

left_out() { echo "container: left out, since $1"; exit 0; }

if [[ -z ${TAUSERVE_CONTAINER_NAMESPACE:-} ]]; then
  ((EUID == 0)) || left_out "it needs root"
  for tool in buildah debootstrap ip; do
    command -v "$tool" >/dev/null || left_out "$tool is not installed (deploy/setup.sh installs it where it can be had)"
  done
  # As test_image.py does.
  unshare --mount --pid --net --fork sh -c 'mount -t tmpfs tmpfs /mnt && mount -t proc proc /mnt && ip link set lo up' \
    2>/dev/null || left_out "mounts and namespaces are not permitted here"
  rm -rf "$work"
  mkdir -p "$work"
  code=0
  TAUSERVE_CONTAINER_NAMESPACE=1 unshare --mount "$0" "$device" || code=$?
  # Only here, where nothing is mounted in it any more.
  rm -rf "$work"
  exit "$code"
fi

# Layers are whole copies, gone after the test: memory is faster.
if (($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) > 12 << 20)); then
  mount -t tmpfs -o size=75% tmpfs "$work"
fi
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot TMPDIR=$work/tmp
mkdir "$TMPDIR"
buildah_here() { buildah --root "$work/storage" --runroot "$work/runroot" "$@"; }

# The Debian archive that apt takes this release from.
debian_mirror() {
  apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
    awk '$1 == "bookworm" { print $2; exit }'
}

# Makes the Debian root, a file.
make_debian() {
  local mirror proxy=
  mirror=$(debian_mirror)
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  http_proxy=${proxy:-${http_proxy:-}} debootstrap --variant=minbase bookworm "$work/debian" "$mirror" &&
    rm -rf "$work"/debian/var/{cache/apt/archives,lib/apt/lists}/* &&
    tar -C "$work/debian" -cf "$work/debian.tar" . &&
    mv "$work/debian.tar" "$kept/debian.tar" &&
    rm -rf "$work/debian"
}

import_debian() {
  local container
  container=$(buildah_here from scratch) &&
    buildah_here add -q "$container" "$kept/debian.tar" / &&
    buildah_here commit -q "$container" debian:bookworm-slim &&
    buildah_here run "$container" true &&
    buildah_here rm "$container"
}

# The build's apt and pip reach their registries as this machine's do; its own settings in the folders stay here.
network=()
share_network_settings() {
  mkdir "$work/apt"
  cp -aL /etc/apt/. "$work/apt/"
  rm -rf "$work"/apt/apt.conf{,.d/*}
  { apt-config dump | awk '/^Acquire::[^ ]*[^: ] "..*";/ && !/^Acquire::IndexTargets/'
    echo 'Acquire::Retries "3";'; } >"$work/apt/apt.conf.d/host"
  # Lines such as global.index-url='...'; what comes from the environment is the last, and holds.
  .venv/bin/python -m pip config list | awk -F= '
    BEGIN { print "[global]" }
    match($1, /\.(index-url|extra-index-url|proxy|trusted-host)$/) {
      key = substr($1, RSTART + 1)
      value[key] = substr($0, length($1) + 3, length($0) - length($1) - 3)
    }
    END { for (key in value) print key " = " value[key] }' >"$work/pip.conf"
  network=(--volume "$work/apt:/etc/apt" --volume "$work/pip.conf:/etc/pip.conf:ro"
           --volume /usr/share/keyrings:/usr/share/keyrings:ro)
  # The package ca-certificates takes them up.
  if [[ -d /usr/local/share/ca-certificates ]]; then
    network+=(--volume /usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro)
  fi
}

# Where buildah keeps the Dockerfile's cache mount lies what other builds on this machine have compiled.
share_ccache() {
  local cache
  cache=$(ccache --get-config cache_dir)
  mkdir -p "$cache" "$TMPDIR/buildah-cache/tauserve-ccache"
  mount --bind "$cache" "$TMPDIR/buildah-cache/tauserve-ccache"
}

if [[ ! -f $kept/debian.tar ]]; then
  SECONDS=0
  make_debian >"$log" 2>&1 || left_out "debootstrap made no Debian root: $(tail -n 1 "$log")"
  echo "container: Debian root made in $SECONDS s"
fi
import_debian >"$log" 2>&1 || left_out "buildah runs nothing here: $(tail -n 1 "$log")"
share_network_settings
share_ccache

SECONDS=0
revision=$(git rev-parse HEAD)
buildah_here bud --pull=never --format docker --tag tauserve "${network[@]}" --build-arg CUDA=$cuda \
  --build-arg REVISION="$revision" . >"$log" 2>&1 || { tail -n 60 "$log" >&2; echo "container: the build failed" >&2; exit 1; }
echo "container: image built in $SECONDS s"

container=$(buildah_here from --pull=never tauserve)
buildah_here inspect --type image tauserve >"$work/image.json"
TAUSERVE_IMAGE_ROOT=$(buildah_here mount "$container") TAUSERVE_IMAGE_JSON=$work/image.json \
  TAUSERVE_IMAGE_REVISION=$revision TAUSERVE_IMAGE_CUDA=$cuda \
  .venv/bin/python -m pytest -q -s -p no:cacheprovider tests/container
