#!/bin/sh
# gpu.sh: every question that needs a GPU, in one call of under four minutes, on a machine without MPI or network.
# Builds build/gpu for the device that is there and prints a table; exit 1 where an answer is wrong, 77 where there is no
# device.
#
# gpu.sh speed [ROW…]: training steps beside PyTorch's, in under five minutes; ROW: MODEL[/BATCH][:PRECISION], ours, torch
# (bench/gpu_speed.py).
#
# gpu.sh kernels MODEL[/BATCH] PRECISION [traced|torch]: where a step's milliseconds go, in under a minute
# (bench/gpu_kernels.py).
#
# gpu.sh large [OPTION…]: the largest GPT that trains on the device, in under two minutes (bench/gpu_large.py); with
# --offload the optimizer's state lies on the host (eight minutes).
#
# gpu.sh pack [ARCHITECTURES]: for a machine that lacks what the build needs; needs no device itself. Puts programs for
# these (90-real: see CMAKE_CUDA_ARCHITECTURES), the libraries that they need and the models of `speed` (where
# ONNXPIPE_PYTHON, or python3, has torch and onnx) into build/gpu-pack and build/gpu-pack.tar.xz; gpu.sh takes either
# where it cannot build.
#
# ONNXPIPE_GPU_DEVICE: the device's number for nvidia-smi (0); cpu: a dry run of `speed` with the program of build/release,
# and with ONNXPIPE_TINY=1 of small models. ONNXPIPE_SECONDS: when to end. ONNXPIPE_OUT: logs go there, else to
# answers/ beside the programs.
# shellcheck disable=SC2086,SC2317
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin # where the toolkit puts itself
build=build/gpu
pack=build/gpu-pack
device=${ONNXPIPE_GPU_DEVICE:-0}
python=${ONNXPIPE_PYTHON:-python3}
began=$(date +%s)
failed=0

case ${1:-} in
pack | speed | kernels | large | '') ;;
*)
  sed -n 's/^# \(gpu.sh.*\)/\1/p' tests/gpu.sh >&2
  exit 2
  ;;
esac

# what the build needs, from tools/install_packages.sh tests and the CUDA toolkit
missing=""
for tool in gcc cmake ninja pkg-config protoc-c nvcc; do
  command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
for library in jansson libprotobuf-c libzip cmocka; do
  pkg-config --exists $library 2>/dev/null || missing="$missing $library"
done

# make_programs ARCHITECTURES
make_programs() {
  cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DONNXPIPE_MPI=OFF -DONNXPIPE_CUDA=ON -DONNXPIPE_TEST_ROOT=. \
    -DCMAKE_CUDA_ARCHITECTURES="$1" >/dev/null
  tests=$(ninja -C $build -t targets all | sed -n 's/^\(cuda_test_[a-z_]*\):.*/\1/p')
  cmake --build $build --target onnxpipe $tests
}

# make_models FOLDER [--tiny]
make_models() {
  $python bench/gpu_models.py export "$@" >/dev/null 2>&1 ||
    echo "gpu.sh: $python has no torch and onnx that could write the models of \`speed\` (ONNXPIPE_PYTHON)" >&2
}

# The programs, and every library of theirs that is no part of a compiler's own run time.
make_pack() {
  rm -rf $pack $pack.tar.xz
  mkdir -p $pack/tests $pack/lib
  cp $build/onnxpipe $pack/
  cp $build/libonnxpipe.so.0 $pack/lib/
  find $build/tests -maxdepth 1 -name 'cuda_test_*' -type f -exec cp {} $pack/tests/ \;
  ldd $pack/onnxpipe $pack/tests/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -v -E '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libonnxpipe)\.so' | while read -r library; do
    cp -L "$library" $pack/lib/
  done
  strip $pack/onnxpipe $pack/lib/libonnxpipe.so.0 $pack/tests/*
  make_models $pack/models
  XZ_OPT='-3 -T0' tar -C build -cJf $pack.tar.xz gpu-pack
  echo "$pack: $(du -sm $pack | cut -f 1) MiB; $pack.tar.xz: $(du -sm $pack.tar.xz | cut -f 1) MiB"
}

if [ "${1:-}" = pack ]; then
  if [ -n "$missing" ]; then
    echo "gpu.sh: missing:$missing (sh tools/install_packages.sh tests; nvcc is of the CUDA toolkit)" >&2
    exit 1
  fi
  make_programs "${2:-90-real}"
  make_pack
  exit
fi

if [ "$device" = cpu ]; then
  build=build/release
elif ! nvidia-smi -i "$device" >/dev/null 2>&1; then
  echo "gpu.sh: skipped: nvidia-smi finds no device $device"
  exit 77
elif [ -n "$missing" ]; then
  if [ -f $pack.tar.xz ] && [ "$(cksum <$pack.tar.xz)" != "$(cat $pack/unpacked 2>/dev/null)" ]; then
    rm -rf $pack
    tar -C build -xJf $pack.tar.xz 2>/dev/null || $python -m tarfile -e $pack.tar.xz build
    cksum <$pack.tar.xz >$pack/unpacked
  fi
  if [ ! -d $pack ]; then
    echo "gpu.sh: missing:$missing (sh tools/install_packages.sh tests; nvcc is of the CUDA toolkit), and there is neither" \
      "$pack nor $pack.tar.xz, made elsewhere (sh tests/gpu.sh pack)" >&2
    exit 1
  fi
fi

ask_driver() {
  nvidia-smi -i "$device" --query-gpu="$1" --format=csv,noheader,nounits
}

# look_in FOLDER: the loader looks there, too
look_in() {
  [ -z "$1" ] || LD_LIBRARY_PATH=$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# folder_of LIBRARY: where it lies, should the loader not know
folder_of() {
  ldconfig -p 2>/dev/null | grep -q "$1\.[0-9]" ||
    find /usr/local /usr/lib /opt -name "$1.[0-9]*" 2>/dev/null | head -n 1 | xargs -r dirname
}

peers_path=${LD_LIBRARY_PATH:-}
if [ "$device" != cpu ]; then
  if [ -n "$missing" ]; then
    build=$pack
    look_in "$PWD/$pack/lib"
  else
    make_programs "$(ask_driver compute_cap | tr -d '. ')-real"
  fi
  look_in "$(folder_of libcublasLt.so)"
  look_in "$(folder_of libnccl.so)"
  look_in "$(folder_of libcudnn.so)"
  CUDA_VISIBLE_DEVICES=$(ask_driver uuid) # numbers of CUDA's own order need not be the driver's
  export CUDA_VISIBLE_DEVICES
fi
answers=${ONNXPIPE_OUT:-$build/answers}
mkdir -p $answers

ours=cuda:0
[ "$device" != cpu ] || ours=cpu
libraries=${LD_LIBRARY_PATH:-}

# with_models SCRIPT [ARGUMENT…]: one of bench/, with what all take
with_models() {
  models=$build/models
  tiny=""
  if [ -n "${ONNXPIPE_TINY:-}" ]; then
    models=build/gpu/models-tiny
    tiny=--tiny
  fi
  [ -d $models ] || make_models $models $tiny
  script=bench/$1.py
  shift
  LD_LIBRARY_PATH=$peers_path PYTHONUNBUFFERED=1 $python "$script" --libraries "$libraries" --models $models --out "$answers/speed" \
    --device $ours $tiny "$@"
}

case ${1:-} in
speed)
  shift
  with_models gpu_speed --onnxpipe $build/onnxpipe --nvidia-smi "$device" \
    --seconds $((${ONNXPIPE_SECONDS:-285} - $(date +%s) + began)) "$@"
  exit
  ;;
kernels)
  shift
  library=$(find $build/libonnxpipe.so.0 $build/lib/libonnxpipe.so.0 2>/dev/null | head -n 1)
  with_models gpu_kernels --library "$library" --seconds "${ONNXPIPE_SECONDS:-50}" "$@"
  exit
  ;;
large)
  shift
  free=4096
  seconds=112
  case " $* " in *' --offload '*) seconds=480 ;; esac
  [ "$device" = cpu ] || free=$(ask_driver memory.free)
  LD_LIBRARY_PATH=$peers_path PYTHONUNBUFFERED=1 $python bench/gpu_large.py --libraries "$libraries" --onnxpipe $build/onnxpipe \
    --out "$answers/large" --device $ours --memory "$free" --seconds $((${ONNXPIPE_SECONDS:-$seconds} - $(date +%s) + began)) "$@"
  exit
  ;;
esac
[ -z "${LD_LIBRARY_PATH:-}" ] || export LD_LIBRARY_PATH

seconds_left() {
  echo $((${ONNXPIPE_SECONDS:-235} - $(date +%s) + began))
}

row() {
  printf '%-44s %-8s %s\n' "$1" "$2" "$3"
}

# no longer than there is time, and a minute: what hangs must not take the other questions with it
limited() {
  left=$(seconds_left)
  timeout -k 5 $((left < 60 ? left : 60)) "$@"
}

# explain LOG: the lines that say what went wrong, and the last ones
explain() {
  {
    grep -m 3 -A 2 -E 'Invalid|hazard|Barrier|rror|differ|FAIL' "$1" || true
    echo ...
    tail -n 3 "$1"
  } | cut -c 1-300 | sed 's/^/  | /'
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
  answered=0
  "$@" >"$answers/$name" 2>&1 || answered=$?
  case $answered in
  0) answer=yes ;;
  77)
    row "$name" "not run" "$(sed -n 's/^skipped: //p' "$answers/$name" | head -n 1)"
    [ "$1" = nccl_test ] || failed=1 # only NCCL or a second device may be missing
    return 0
    ;;
  124 | 137)
    answer=late
    failed=1
    ;;
  *)
    answer=NO
    failed=1
    ;;
  esac
  row "$name" $answer "$(($(date +%s) - start)) s"
  [ $answer = yes ] || explain "$answers/$name"
}

train() {
  model=$1
  shift
  limited $build/onnxpipe train "models/$model/model.onnx" --data "models/$model/data.npz" --quiet "$@"
}

eight_steps() {
  train nanogpt --batch 8 --microbatches 4 --steps 8 "$@"
}

# bit for bit
repeats() {
  for precision in float32 bf16; do
    eight_steps --device cuda:0 --precision $precision --save $answers/first.onnx &&
      eight_steps --device cuda:0 --precision $precision --save $answers/second.onnx &&
      cmp $answers/first.onnx $answers/second.onnx || return 1
  done
}

# The same bits as alone, in every precision.
two_ranks() {
  for precision in float32 tf32 bf16; do
    eight_steps --device cuda:0 --precision $precision --save $answers/alone.onnx &&
      eight_steps --device cuda:0,cuda:0 --ranks 2 --precision $precision --save $answers/halves.onnx &&
      cmp $answers/alone.onnx $answers/halves.onnx || return 1
  done
}

# The same bits with the optimizer's state on the host, alone and as two ranks.
offloads() {
  for clip in 1e9 0.1; do
    eight_steps --device cuda:0 --clip-norm $clip --save $answers/on_device.onnx &&
      eight_steps --device cuda:0 --clip-norm $clip --offload optimizer --save $answers/on_host.onnx &&
      cmp $answers/on_device.onnx $answers/on_host.onnx &&
      eight_steps --device cuda:0,cuda:0 --ranks 2 --clip-norm $clip --offload optimizer --save $answers/on_host.onnx &&
      cmp $answers/on_device.onnx $answers/on_host.onnx || return 1
  done
}

losses() {
  sed 's/.*"loss": *\([-0-9.e+]*\).*/\1/' "$1"
}

# Losses within 1e-4 of one GPU's: the other half of the model is on the cpu.
with_cpu() {
  eight_steps --device cuda:0 --metrics $answers/gpu.jsonl &&
    eight_steps --device cuda:0,cpu --ranks 2 --metrics $answers/gpu_cpu.jsonl || return 1
  losses $answers/gpu.jsonl >$answers/gpu.losses
  losses $answers/gpu_cpu.jsonl | paste $answers/gpu.losses - |
    awk '{ d = $1 - $2; if (d < 0) d = -d; print $1, $2; if (!(d <= 1e-4 * $1)) bad = 1 } END { exit bad || NR != 8 }'
}

# A device that is too small is one line, before the first step.
out_of_memory() {
  line=$(train nanogpt --device cuda:0 --batch 100000000 --microbatches 1 --steps 1 2>&1) && return 1
  echo "$line"
  [ "$(echo "$line" | wc -l)" -eq 1 ] && echo "$line" | grep -q "rank 0.*stage"
}

# The MiB of device memory that the driver says are in use, on top of what was before, while COMMAND runs: ten seconds at
# most.
most_memory() {
  before=$(ask_driver memory.used)
  most=0
  timeout -s KILL 10 "$@" >>"$answers/memory_runs" 2>&1 &
  run=$!
  while kill -0 $run 2>/dev/null; do
    now=$(ask_driver memory.used)
    [ $((now - before)) -le $most ] || most=$((now - before))
    sleep 0.3
  done
  wait $run 2>/dev/null || true
  echo $most
}

# nccl_test TEST: over the NCCL that can be loaded, where the build has it, on all devices of the machine.
nccl_test() {
  if [ ! -x "$build/tests/$1" ]; then
    echo "skipped: the build has found no nccl.h (-DNCCL_INCLUDE_DIR)"
    return 77
  fi
  answered=0
  ONNXPIPE_TEST_SAMPLE=1 limited env -u CUDA_VISIBLE_DEVICES $build/tests/"$1" >"$answers/$1.log" 2>&1 || answered=$?
  cat "$answers/$1.log"
  if [ $answered -eq 0 ] && grep -q '^skipped: ' "$answers/$1.log"; then
    return 77
  fi
  return $answered
}

# What is planned is what the driver says, within 3 % and the context's size. Nobody else may use the device meanwhile.
memory() {
  : >"$answers/memory_runs"
  size="--batch 8192 --microbatches 1"
  $build/onnxpipe plan models/nanogpt/model.onnx --data models/nanogpt/data.npz --device cuda:0 $size --quiet \
    -o $answers/memory_plan.json || return 1
  planned=$(awk -F'[:,]' '/"total_bytes"/ { print int($2 / 1048576) }' $answers/memory_plan.json)
  context=$(most_memory $build/tests/cuda_test_device hold 6)
  taken=$(most_memory $build/onnxpipe train models/nanogpt/model.onnx --data models/nanogpt/data.npz --device cuda:0 $size \
    --steps 1000000 --quiet)
  echo "planned $planned MiB, the driver says $taken MiB, $context MiB of it for a context"
  awk -v p="$planned" -v t="$taken" -v c="$context" 'BEGIN { exit !(c > 0 && t >= p && t <= 1.03 * p + c) }'
}

# checked TOOL COMMAND…: under one of compute-sanitizer's tools
checked() {
  tool=$1
  shift
  limited compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$@"
}

# sanitized TOOL TEST…: a sample of what the tests of the device do
sanitized() {
  tool=$1
  shift
  for test in "$@"; do
    ONNXPIPE_TEST_SAMPLE=1 checked "$tool" $build/tests/cuda_test_$test || return 1
  done
}

# sanitized_step TOOL: four steps of a small model in bf16, two of them replayed
sanitized_step() {
  checked "$1" $build/onnxpipe train models/nanogpt/model.onnx --data models/nanogpt/data.npz --quiet --batch 2 --microbatches 1 --steps 4 --no-measure \
    --device cuda:0 --precision bf16
}

row question answer took
ask streams_memory_errors limited $build/tests/cuda_test_device
ask recordings limited $build/tests/cuda_test_recordings
ask operator_table limited $build/tests/cuda_test_operators
ask operators_of_stored_bf16 limited env ONNXPIPE_TEST_SAMPLE=1 $build/tests/cuda_test_narrow
ask attention_in_bf16 limited $build/tests/cuda_test_attention
ask cases_float32_alone_3_ranks_and_with_cpu limited $build/tests/cuda_test_cases float32
ask cases_tf32 limited $build/tests/cuda_test_cases tf32
ask cases_bf16_within_2_percent limited $build/tests/cuda_test_cases bf16
ask repeatable repeats
ask two_ranks_on_one_device_same_bits two_ranks
ask cuda_and_cpu_ranks with_cpu
ask optimizer_state_on_the_host_same_bits offloads
ask nccl_sends_to_itself_in_a_group nccl_test cuda_test_nccl
ask nccl_between_two_devices nccl_test cuda_test_cases_nccl
ask too_small_a_device_is_one_line out_of_memory
ask planned_memory_is_the_drivers memory
tail -n 1 $answers/planned_memory_is_the_drivers || true
if command -v compute-sanitizer >/dev/null 2>&1; then
  for tool in memcheck racecheck synccheck; do
    ask ${tool}_of_a_step sanitized_step $tool
  done
  for tool in memcheck racecheck synccheck; do
    ask $tool sanitized $tool device operators narrow
  done
  for tool in memcheck racecheck synccheck; do
    ask ${tool}_of_attention sanitized $tool attention
  done
else
  row compute-sanitizer "not run" "it is not installed"
fi

echo
nvidia-smi -i "$device" --query-gpu=name,driver_version,memory.total --format=csv,noheader
echo "$(($(date +%s) - began)) s in all"
exit $failed
