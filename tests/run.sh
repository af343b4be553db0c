#!/bin/sh
# Installs what is missing, builds debug (ASan + UBSan) and release, runs every test; what runs on threads of one
# process also under ThreadSanitizer; fuzzes the importer for a minute and a half. `sh tests/run.sh long` adds the longer
# sweeps.
set -eu
cd "$(dirname "$0")/.."

leave_out="-LE long"
[ "${1:-}" = long ] && leave_out=""

sh tools/install_packages.sh tests
sh tests/venv.sh & # beside the first build
venv=$!
. tools/mpi_environment.sh

jobs=$(nproc)
for preset in debug release; do
  cmake --preset $preset >/dev/null
  cmake --build --preset $preset
  [ -z "$venv" ] || wait "$venv" ||
    echo "tests/run.sh: no Python packages: the tests that need them say that they are skipped" >&2
  venv=""
  # shellcheck disable=SC2086
  ctest --preset $preset --no-tests=error -j "$jobs" $leave_out
done
build/release/tests/list_isas
cmake --preset tsan >/dev/null
cmake --build --preset tsan --target runtime_test_transport_local runtime_test_executor runtime_test_session \
  runtime_test_reference_cases runtime_test_checkpoint runtime_test_replan runtime_test_resume_cases runtime_test_last_batch \
  runtime_test_watchdog cuda_test_wires backend_test_pool
ctest --preset tsan --no-tests=error -j "$jobs" -L threads
sh tests/fuzz/run.sh 90
