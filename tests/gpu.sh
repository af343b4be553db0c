#!/bin/sh
# gpu.sh [DEVICE]: every question that needs a GPU, in one call of under ten minutes, on a machine without MPI or network.
# Builds build/gpu for the device that is there and prints a table; exit 1 where an answer is wrong, 77 where there is no
# device. Logs are in build/gpu/answers.
set -eu
# shellcheck disable=SC2086,SC2317
cd "$(dirname "$0")/.."
device=${1:-0}
build=build/gpu
answers=$build/answers
began=$(date +%s)
failed=0

# what the build needs, from tools/install_packages.sh tests and the CUDA toolkit
missing=""
for tool in gcc cmake ninja pkg-config protoc-c nvcc; do
  command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
if command -v pkg-config >/dev/null 2>&1; then
  for library in jansson libprotobuf-c libzip cmocka; do
    pkg-config --exists $library || missing="$missing $library"
  done
fi
if [ -n "$missing" ]; then
  echo "gpu.sh: missing:$missing (sh tools/install_packages.sh tests; nvcc is of the CUDA toolkit)" >&2
  exit 1
fi
if ! nvidia-smi -i "$device" >/dev/null 2>&1; then
  echo "gpu.sh: skipped: nvidia-smi finds no device $device"
  exit 77
fi

capability=$(nvidia-smi -i "$device" --query-gpu=compute_cap --format=csv,noheader | tr -d '. ')
cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DONNXPIPE_MPI=OFF -DONNXPIPE_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >/dev/null
cmake --build $build --target onnxpipe cuda_test_device cuda_test_operators cuda_test_cases
mkdir -p $answers
export CUDA_VISIBLE_DEVICES="$device"

seconds_left() {
  echo $((570 - $(date +%s) + began))
}

row() {
  printf '%-44s %-8s %s\n' "$1" "$2" "$3"
}

# no longer than there is time
limited() {
  timeout "$(seconds_left)" "$@"
}

# ask NAME COMMAND…: a row of the table; the log is answers/NAME
ask() {
  name=$1
  shift
  if [ "$(seconds_left)" -lt 10 ]; then
    row "$name" "not run" "no time is left"
    failed=1
    return 0
  fi
  start=$(date +%s)
  if "$@" >"$answers/$name" 2>&1; then
    answer=yes
  else
    answer=NO
    failed=1
  fi
  row "$name" $answer "$(($(date +%s) - start)) s"
}

train() {
  model=$1
  shift
  limited $build/onnxpipe train "models/$model/model.onnx" --data "models/$model/data.npz" --device cuda:0 --quiet "$@"
}

# bit for bit, alone and on two ranks of the one device
repeats() {
  train nanogpt --batch 8 --microbatches 4 --steps 8 --save $answers/first.onnx &&
    train nanogpt --batch 8 --microbatches 4 --steps 8 --save $answers/second.onnx &&
    train nanogpt --batch 8 --microbatches 4 --steps 8 --ranks 2 --save $answers/third.onnx &&
    cmp $answers/first.onnx $answers/second.onnx && cmp $answers/first.onnx $answers/third.onnx
}

# The most device memory, in MiB, that the driver says a run takes.
most_memory() {
  most=0
  "$@" >/dev/null 2>&1 &
  run=$!
  while kill -0 $run 2>/dev/null; do
    now=$(nvidia-smi -i "$device" --query-compute-apps=process_name,used_memory --format=csv,noheader,nounits |
      awk -F, '$1 ~ /onnxpipe/ {print $2 + 0}')
    if [ "${now:-0}" -gt $most ]; then
      most=$now
    fi
    sleep 0.2
  done
  wait $run || most="(the run failed) $most"
  echo "$most"
}

row question answer took
ask streams_memory_errors limited $build/tests/cuda_test_device
ask operator_table limited $build/tests/cuda_test_operators
ask cases_alone_3_ranks_and_with_cpu limited $build/tests/cuda_test_cases
ask repeatable repeats
if command -v compute-sanitizer >/dev/null 2>&1; then
  for tool in memcheck racecheck synccheck; do
    ask $tool limited compute-sanitizer --tool $tool --error-exitcode 9 $build/tests/cuda_test_device
  done
else
  row compute-sanitizer "not run" "it is not installed"
fi

echo
# most_memory of a training run long enough to be looked at
memory_of() {
  most_memory timeout 30 $build/onnxpipe train "models/$1/model.onnx" --data "models/$1/data.npz" --device cuda:0 \
    --steps "$2"
}
small=$(memory_of surrogate 2000)
large=$(memory_of gpt2 400)
echo "device memory that the driver says a run takes, the context's included: surrogate $small MiB, gpt2 $large MiB"
for model in surrogate gpt2; do
  echo "planned for $model:"
  $build/onnxpipe plan models/$model/model.onnx --device cuda:0 2>&1 | grep -i "memory" || true
done
nvidia-smi -i "$device" --query-gpu=name,driver_version,memory.total --format=csv,noheader
echo "$(($(date +%s) - began)) s in all"
exit $failed
