#!/usr/bin/env bash
# Everything measured on a GPU, in under 8 minutes: parity with the oracle, rendering, streaming, one training
# step. Needs torch and triton; all else may be carried as wheels:
#   WHEELS=path/to/wheels benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
export PYTHONPATH="$PWD"
timeout 460 "$python" benchmarks/render_gpu.py --out benchmarks/results/render_gpu.json "$@"
