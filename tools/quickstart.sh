#!/bin/sh
# From a fresh Debian 12 machine to a trained model: installs what is missing, builds the release preset, trains
# models/nanogpt on real text over 4 MPI ranks. About three minutes on two cores.
set -eu
cd "$(dirname "$0")/.."

sh tools/install_packages.sh
echo "building"
mkdir -p build/quickstart
{ cmake --preset release && cmake --build --preset release --target onnxpipe; } >build/quickstart/build.log 2>&1 ||
  { tail -n 30 build/quickstart/build.log >&2; exit 1; }

onnxpipe=build/release/onnxpipe
echo
echo "$ onnxpipe inspect models/nanogpt/model.onnx"
$onnxpipe inspect models/nanogpt/model.onnx | head -n 16
echo "..."
echo
# PyTorch's loss on the same batches: 4.574 at step 1, 2.316 at step 64, 1.733 at step 256
# the flags, so that the line can be copied: Open MPI wants to be asked as root, and for more ranks than cores
set -- mpirun --allow-run-as-root --oversubscribe -n 4 $onnxpipe train models/nanogpt/model.onnx --data models/text/kjv_train.npz \
  --batch 64 --steps 256 --lr 3e-3 --metrics build/quickstart/metrics.jsonl --save build/quickstart/nanogpt.onnx
echo "$ $*"
"$@"
