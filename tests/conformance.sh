#!/bin/sh
# The official node cases of the onnx package: a table by operator, and at the end "N passed, N failed, N skipped".
#   sh tests/conformance.sh [PROGRAM] [-v] [--only WORD]
# PROGRAM is the built tests/conformance (build/release/tests/conformance, which is built where it is not given). -v says
# why what is skipped is.
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
if ! "$python" -c 'import numpy, onnx.backend.test.case.node' 2>/dev/null; then
  echo "skipped: build/venv has no onnx (sh tests/venv.sh makes it)"
  exit 77
fi
exec "$python" -W ignore "$here/conformance/conformance.py" "$program" "$@"
