#!/bin/sh
# Makes build/venv with what the Python tests import, unless it is there. Prints why where it cannot.
set -eu
cd "$(dirname "$0")/.."
wanted="numpy onnx==1.23.2 onnxruntime safetensors"
if build/venv/bin/python -c 'import numpy, onnx, onnxruntime, safetensors' 2>/dev/null; then
  exit 0
fi
mkdir -p build
rm -rf build/venv
python3 -m venv build/venv
# shellcheck disable=SC2086
build/venv/bin/pip install --quiet --disable-pip-version-check $wanted
