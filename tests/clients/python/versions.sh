#!/usr/bin/env bash
# The Python client on other interpreters, each in a fresh environment with the newest packages that the wheel allows; what
# ctest runs is one interpreter with pinned packages. TAUSERVE_BIN_DIR is the folder of the built server.
#   tests/clients/python/versions.sh python3.10 python3.13
set -euo pipefail
cd "$(dirname "$0")/../../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for python in "$@"; do
  echo "== $("$python" --version)"
  environment="$scratch/${python//\//_}"
  "$python" -m venv "$environment"
  bin="$environment/bin"
  "$bin/pip" install --quiet --disable-pip-version-check ./clients/python pytest mypy hatchling grpcio-tools matplotlib \
    types-grpcio types-protobuf types-tqdm
  "$bin/pip" list --disable-pip-version-check 2>/dev/null | grep -E '^(grpcio|protobuf|tauserve|Jinja2|tqdm) '
  "$bin/python" -m pytest -q -p no:cacheprovider tests/clients/python
done
