#!/bin/sh
# sh tests/fuzz/run.sh [SECONDS]: libFuzzer on scanner, importer and bind at once, for so long (60). The corpus is in
# build/fuzz/corpus and grows; what fails is left in build/fuzz/failures, and that is a failure here.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}

sh tools/install_packages.sh fuzz
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz >build/fuzz.log || { tail -20 build/fuzz.log >&2; exit 1; }

corpus=build/fuzz/corpus failures=build/fuzz/failures
mkdir -p $corpus $failures
python=build/venv/bin/python
[ -x $python ] || python=python3
[ -d $corpus/seeds ] || $python tests/fuzz/seeds.py $corpus/seeds

processes=""
for what in scanner importer bind; do
  mkdir -p $corpus/$what
  # UBSan's report is a failure too; what takes over 20 s or 1 GiB is one as well
  build/fuzz/fuzz_$what -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=65536 \
    -artifact_prefix=$failures/$what- -print_final_stats=1 $corpus/$what $corpus/seeds 2>build/fuzz/$what.log &
  processes="$processes $what:$!"
done

failed=0
for process in $processes; do
  what=${process%:*}
  if wait "${process#*:}"; then
    echo "fuzz $what: $(grep -c NEW build/fuzz/$what.log) new inputs, $(sed -n 's/^stat::number_of_executed_units: *//p' \
      build/fuzz/$what.log) runs in $seconds s, nothing found"
  else
    failed=$((failed + 1))
    echo "fuzz $what: FAILED, see build/fuzz/$what.log and $failures:"
    grep -E "ERROR|runtime error|fuzz:|SUMMARY|Test unit written" build/fuzz/$what.log || true
  fi
done
exit $failed
