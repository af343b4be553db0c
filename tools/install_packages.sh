#!/bin/sh
# Installs what the build needs and is missing, from Debian's packages; with `tests`, what the tests need too, with
# `fuzz`, the compiler of tests/fuzz.
# Prints one line and does nothing where all is there.
set -eu

packages="gcc libc6-dev cmake ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev libjansson-dev libzip-dev zlib1g-dev
libopenmpi-dev openmpi-bin libhwloc-dev"
if [ "${1:-}" = tests ]; then
  packages="$packages libcmocka-dev g++ groff-base binutils bash iproute2 python3 python3-venv python3-pip
gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
fi
[ "${1:-}" = fuzz ] && packages="$packages clang-14 libclang-rt-14-dev"

if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "install_packages.sh: this is no Debian; the build needs what these packages hold there: $packages" >&2
  exit 1
fi

missing=""
for package in $packages; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
  echo "every package that is needed is installed"
  exit 0
fi

as_root=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "install_packages.sh: run as root: apt-get install$missing" >&2; exit 1; }
  as_root=sudo
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
