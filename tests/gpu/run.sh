#!/usr/bin/env bash
# All that needs a GPU: builds, runs the CPU's kernel test bodies on the CUDA backend, checks of single kernels, the
# Python package's operators, the sanitizers of CUDA on small shapes, the embedded model against its reference, a server with recall prompts, and timings of steps. One JSON file
# has the results.
#   tests/gpu/run.sh [--out FILE] [--only PART,...]       builds build/release first
#   tests/gpu/run.sh --bin DIR [--out FILE] [...]         runs what DIR has; needs Python 3 with NumPy, no compiler
set -euo pipefail
cd "$(dirname "$0")/../.."

for argument in "$@"; do
  case "$argument" in
    --bin | --bin=*) exec python3 tests/gpu/run.py "$@" ;;
    -h | --help) exec python3 tests/gpu/run.py --help ;;
  esac
done
./deploy/setup.sh
cmake --preset release -DTAUSERVE_CUDA=ON
cmake --build --preset release --target \
  tauserve tauserve-cli attention_test attention_adversarial_test linear_test elementwise_test \
  top_logits_test page_copy_test gpu_fault_test model_embedded_model_test model_logits step_bench tauserve_checks \
  _tauserve_kernels
exec python3 tests/gpu/run.py --bin build/release/bin "$@"
