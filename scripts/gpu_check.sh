#!/usr/bin/env bash
# Builds and checks the trainer on a machine with an NVIDIA GPU and without network: bench/gpu/check.py, which says more.
#
#   scripts/gpu_check.sh --deps build/gpu-deps --out FOLDER     on a GPU, with what scripts/gpu_pack collected
#   scripts/gpu_check.sh --device cpu                           the same steps with tiny shapes, on any machine
#   scripts/gpu_check.sh --help                                 all flags
#
# SBORA_PYTHON names the Python that has torch, transformers and PEFT (default python3).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=${SBORA_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "gpu_check: error: there is no $python" >&2; exit 2; }
exec "$python" "$here/bench/gpu/check.py" "$@"
