#!/usr/bin/env bash
# The test command: set-up, release build with warnings as errors, formatting, all tests; most of them also under the
# address and undefined sanitizers, what has threads under the thread sanitizer, and what reads strangers' bytes under a
# fuzzer for a few seconds (tests/fuzz); and the container image, where it can be built (tests/container).
#   tests/run.sh [release|asan|tsan|fuzz|container ...]: only these parts.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("$@")
if ((${#parts[@]} == 0)); then parts=(asan tsan fuzz container release); fi

./deploy/setup.sh

check_format() {
  echo "== formatting"
  git ls-files -z -- '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run -Werror
}

build() {
  echo "== build $1"
  cmake --preset "$1" >/dev/null
  cmake --build --preset "$1" | grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking|Generating)' || true
  # grep hides the build's exit code: a second, silent call has nothing left to do, or fails.
  cmake --build --preset "$1" >/dev/null
}

for part in "${parts[@]}"; do
  case "$part" in
    release)
      check_format
      build release
      echo "== test release"
      ctest --preset release --parallel 2
      ;;
    asan)
      build asan
      echo "== test asan"
      ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
        ctest --preset asan --parallel 2 --label-exclude long
      ;;
    tsan)
      build tsan
      echo "== test tsan"
      TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp ignore_noninstrumented_modules=1" \
        ctest --preset tsan --parallel 2 --label-regex '^threads$'
      ;;
    fuzz)
      build fuzz
      echo "== test fuzz"
      UBSAN_OPTIONS=print_stacktrace=1 ctest --preset fuzz --parallel 2
      ;;
    container)
      echo "== container"
      tests/container/run.sh
      ;;
    *)
      echo "usage: tests/run.sh [release|asan|tsan|fuzz|container ...]" >&2
      exit 2
      ;;
  esac
done
