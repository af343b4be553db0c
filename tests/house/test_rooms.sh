#!/bin/sh
# Rooms include only what lies to their left, and the command line nothing but the public header:
# base <- graph <- { onnx, partitioner, backend } <- runtime <- tools. So do the folders of a room. Prints every include
# that does not fit.
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

# folder FILES ALLOWED…: of their own room these, a folder or files that begin so, include only what the patterns match
folder() {
  files=$1
  shift
  allowed="\"$files[/.]"
  for pattern in "$@"; do
    allowed="$allowed|\"$pattern"
  done
  [ -d "$files" ] && where=$files || where=$(echo "$files".*)
  # shellcheck disable=SC2086 # several files
  found=$(grep -rnHE --include='*.[ch]' "^ *# *include *\"${files%%/*}/" $where || true)
  if [ -z "$found" ]; then
    echo "tests/house/test_rooms.sh: $files includes nothing of its room, or is not there"
    wrong=1
  fi
  strays=$(printf '%s\n' "$found" | grep -vE "include *($allowed)" | grep . || true)
  if [ -n "$strays" ]; then
    printf '%s\n' "$strays"
    wrong=1
  fi
}

# graph's own files, autodiff and the planner's view among them, stand between the operators and the passes
folder graph/ops 'graph/(graph|tensor|cost|op|batch|window|convolution|narrow)\.h' graph/ops.def
for own in graph/*.c; do
  folder "${own%.c}" 'graph/[a-z_]*\.h' graph/ops.def graph/ops/rule.h
done
folder graph/passes graph/

folder onnx/file
folder onnx/lower onnx/file/
folder onnx/remarks onnx/file/
folder onnx/rewrite onnx/file/ onnx/lower/ onnx/model.h
folder onnx/inspect onnx/

folder partitioner/schedule
folder partitioner/synthesis partitioner/schedule/
folder partitioner/plan partitioner/schedule/ partitioner/synthesis/
folder partitioner/report partitioner/schedule/ partitioner/synthesis/ partitioner/plan/plan.h

# onnxpipe.h stands alone: its types are everybody's
folder runtime/transport
folder runtime/data
folder runtime/options
folder runtime/job 'runtime/(transport|data)/' runtime/options.h
folder runtime/executor 'runtime/(transport|data|job)/' runtime/options.h
folder runtime/checkpoint 'runtime/(transport|data|job|executor)/' runtime/options.h
folder runtime/costs 'runtime/(transport|data|job|executor)/' runtime/options.h
folder runtime/training 'runtime/(transport|data|job|executor|checkpoint|costs)/' 'runtime/(options|onnxpipe)\.h'
folder runtime/export 'runtime/(transport|data|job|checkpoint)/' runtime/options.h
for end in alternatives edit infer inspect measure what_if; do
  folder runtime/$end 'runtime/(transport|data|job|executor|costs|training)/' runtime/options.h
done

if [ $wrong = 1 ]; then
  echo "test_rooms.sh: a room or a folder includes what does not lie to its left" >&2
  exit 1
fi
# the public header stands alone
if grep -n '# *include *"' runtime/onnxpipe.h; then
  echo "test_rooms.sh: runtime/onnxpipe.h includes headers that are not installed" >&2
  exit 1
fi
