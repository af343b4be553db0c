#!/bin/sh
# Rooms include only what lies to their left, and the command line nothing but the public header:
# base <- graph <- { onnx, partitioner, backend } <- runtime <- tools. Prints every include that does not fit.
set -eu
cd "$(dirname "$0")/../.."

# room ALLOWED…: an extended pattern for each include in quotes that this room may have, its own files apart
wrong=0
room() {
  name=$1
  shift
  allowed="\"$name/"
  for pattern in "$@"; do
    allowed="$allowed|\"$pattern"
  done
  strays=$(grep -rnE --include='*.[ch]' --include='*.inc' --include='*.def' \
    --include='*.cu' --include='*.cuh' '^ *# *include *"' "$name" |
    grep -vE "include *($allowed)" || true)
  if [ -n "$strays" ]; then
    printf '%s\n' "$strays"
    wrong=1
  fi
}

room base
room graph base/
room onnx base/ graph/ onnx.pb-c.h
room partitioner base/ graph/
room backend base/ graph/ emulate.h # tests/cuda, in place of a device
room runtime base/ graph/ onnx/ partitioner/ backend/
room tools runtime/onnxpipe.h
room examples

if [ $wrong = 1 ]; then
  echo "test_rooms.sh: a room includes what does not lie to its left" >&2
  exit 1
fi
# the public header stands alone
if grep -n '# *include *"' runtime/onnxpipe.h; then
  echo "test_rooms.sh: runtime/onnxpipe.h includes headers that are not installed" >&2
  exit 1
fi
