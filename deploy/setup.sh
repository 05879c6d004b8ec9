#!/usr/bin/env bash
# Installs everything that building, running and testing Tauserve needs on Debian 12: Debian packages by name, and
# Python packages inside .venv in the project's folder; among these, where the PATH has no nvcc 13 or later, the CUDA
# compiler. Safe to run again; does nothing when all is there.
#   deploy/setup.sh build: only what the programs are built with, as in the image.
#   TAUSERVE_CUDA=0: no CUDA compiler (half a gigabyte of wheels); the build then leaves the CUDA backend out.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-all}" in
  all | build) purpose=${1:-all} ;;
  *) echo "usage: deploy/setup.sh [build]" >&2; exit 2 ;;
esac

packages=(
  g++ cmake ninja-build ccache pkg-config ca-certificates python3 python3-venv
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libabsl-dev nlohmann-json3-dev libspdlog-dev prometheus-cpp-dev libcpp-httplib-dev libssl-dev
  libdnnl-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev
)
# For tests/container, which says so and is left out where they can't be had.
container_packages=()
if [[ $purpose == all ]]; then
  packages+=(
    git lld libgtest-dev libgmock-dev libbenchmark-dev
    chromium clang-format clang-14 libclang-rt-14-dev curl openssl python3-dev python3-torch prometheus
  )
  command -v kubectl >/dev/null || packages+=(kubernetes-client)
  container_packages+=(buildah debootstrap iproute2)
fi

# apt_install PACKAGE...: those that are not there.
apt_install() {
  local package missing=() sudo=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "setup.sh: run as root, or install sudo" >&2; return 1; }
    sudo=(sudo)
  fi
  echo "setup.sh: installing ${missing[*]}" >&2
  "${sudo[@]}" apt-get update -qq &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}
apt_install "${packages[@]}"
apt_install "${container_packages[@]}" || echo "setup.sh: without ${container_packages[*]}" >&2

# Debian's own interpreter, so that the environment is the same whatever else is on the PATH; its packages are seen, for
# PyTorch.
# install FILE: its packages, unless they are there.
install() {
  local stamp
  stamp=.venv/.$(basename "$1" .txt)
  if ! cmp -s "$1" "$stamp"; then
    echo "setup.sh: installing Python packages of $1 into .venv" >&2
    /usr/bin/python3 -m venv --system-site-packages .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    cp "$1" "$stamp"
  fi
}
install deploy/requirements-build.txt
if [[ $purpose == all ]]; then install deploy/requirements.txt; fi

# cmake/TauserveCuda.cmake finds either.
nvcc_release=$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p' || true)
if [[ ${TAUSERVE_CUDA:-1} != 0 ]] && ((${nvcc_release:-0} < 13)); then
  install deploy/requirements-cuda.txt
fi
