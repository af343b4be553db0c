#!/bin/sh
# Random graphs over all operators: onnxruntime's numbers, gradients by differences: "N passed, N failed, N skipped" at the end.
#   sh tests/generated.sh [PROGRAM] [--seconds S] [--first SEED] [--keep FOLDER]
# PROGRAM is the built tests/conformance (build/release/tests/conformance, which is built where it is not given).
set -eu
needs="numpy, onnx, onnxruntime"
. "$(dirname "$0")/with_program.sh"
exec "$python" -W ignore "$here/conformance/generated.py" "$program" "$@"
