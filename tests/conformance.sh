#!/bin/sh
# The official node cases of the onnx package: a table by operator, and at the end "N passed, N failed, N skipped".
#   sh tests/conformance.sh [PROGRAM] [-v] [--only WORD]
# PROGRAM is the built tests/conformance (build/release/tests/conformance, which is built where it is not given). -v says
# why what is skipped is.
set -eu
needs="numpy, onnx.backend.test.case.node"
. "$(dirname "$0")/with_program.sh"
exec "$python" -W ignore "$here/conformance/conformance.py" "$program" "$@"
