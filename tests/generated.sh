#!/bin/sh
# Random graphs over all operators against onnxruntime: "N passed, N failed, N skipped" at the end.
#   sh tests/generated.sh [PROGRAM] [--seconds S] [--first SEED] [--keep FOLDER]
# PROGRAM is the built tests/conformance (build/release/tests/conformance, which is built where it is not given).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
case ${1:-} in
'' | -*)
  cmake --build "$root/build/release" --target conformance >&2
  program=$root/build/release/tests/conformance
  ;;
*)
  program=$1
  shift
  ;;
esac
python=$root/build/venv/bin/python
if ! "$python" -c 'import numpy, onnx, onnxruntime' 2>/dev/null; then
  echo "skipped: build/venv has no onnx and onnxruntime (sh tests/venv.sh makes it)"
  exit 77
fi
exec "$python" -W ignore "$here/conformance/generated.py" "$program" "$@"
