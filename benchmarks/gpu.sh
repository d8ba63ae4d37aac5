#!/usr/bin/env bash
# Everything measured on a GPU, in under 9 minutes: parity with the oracle, rendering, streaming, a training step
# alone and fed by the stream, and steps with a motion target. Each part has its own time limit; what fails is written down beside the rest.
#
#   benchmarks/gpu.sh                      # writes benchmarks/results/render_gpu.json
#   REHEARSE=1 benchmarks/gpu.sh           # without a GPU: every part at toy size, Triton in its interpreter
#   WHEELS=wheels benchmarks/gpu.sh        # on a bare machine that has torch and triton
#
# Wheels to carry, for the Python, platform and processor of that machine, without what it has already:
#   av pycocotools pydantic pydantic-core annotated-types typing-inspection open_clip_torch timm ftfy wcwidth
# and, where torch is all there is:
#   numpy numba llvmlite pyarrow opencv-python-headless scikit-image scipy pillow pyyaml rich markdown-it-py mdurl
#   pygments jinja2 markupsafe typing-extensions torchvision regex tqdm huggingface-hub safetensors packaging
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
if [ -n "${WHEELS:-}" ]; then
  site="$(mktemp -d)"
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$WHEELS"/*.whl
fi
export PYTHONPATH="$PWD${site:+:$site}"
if [ -n "${REHEARSE:-}" ]; then
  exec "$python" benchmarks/render_gpu.py --device cpu --patience 5 --out "$(mktemp --suffix .json)" "$@"
fi
timeout 535 "$python" benchmarks/render_gpu.py --out benchmarks/results/render_gpu.json "$@"
