#!/usr/bin/env bash
# The service on a machine with an NVIDIA GPU, from programs built elsewhere: bench/gpu/service_check.py, which says more.
#
#   scripts/gpu_service_check.sh --programs build/gpu-service --out FOLDER    what scripts/gpu_pack --service collected
#   scripts/gpu_service_check.sh --programs FOLDER --device cpu               the same steps on any machine; FOLDER has bin/
#   scripts/gpu_service_check.sh --help                                       all flags
#
# SBORA_PYTHON names the Python whose torch has the libraries that the trainer needs (default python3).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=${SBORA_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "gpu_service_check: error: there is no $python" >&2; exit 2; }
exec "$python" "$here/bench/gpu/service_check.py" "$@"
