#!/bin/sh
# run.sh ONNXPIPE TEST.py: runs a Python test against this program with build/venv's Python (tests/venv.sh makes it), or
# skips it visibly.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$root/build/venv/bin/python
if ! "$python" -c 'import numpy, onnx, onnxruntime' 2>/dev/null; then
  echo "skipped: build/venv with numpy, onnx and onnxruntime is not there (sh tests/venv.sh makes it)"
  exit 77
fi
. "$root/tools/mpi_environment.sh"
ONNXPIPE=$1 exec "$python" -B "$here/$2"
