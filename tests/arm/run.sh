#!/bin/sh
# sh tests/arm/run.sh BUILD: builds base, graph and backend for 64-bit ARM in the folder BUILD and runs their tests, the
# operator table's among them, in qemu; skipped visibly where the compiler or qemu is missing.
set -eu
build=$1
cd "$(dirname "$0")/../.."
for program in aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v $program >/dev/null || {
    echo "skipped: $program is missing (sh tools/install_packages.sh tests)"
    exit 77
  }
done
cmake --preset aarch64 -B "$build" >/dev/null
cmake --build "$build" >"$build/log" || { tail -40 "$build/log" >&2; exit 1; }
ctest --test-dir "$build" --no-tests=error --output-on-failure -j "$(nproc)"
