#!/bin/sh
# Every C file that git tracks is as clang-format leaves it. Skips where there is no clang-format, or no git.
set -eu
cd "$(dirname "$0")/../.."
command -v clang-format >/dev/null 2>&1 || { echo "skipped: no clang-format"; exit 77; }
git rev-parse --git-dir >/dev/null 2>&1 || { echo "skipped: not a git checkout"; exit 77; }
wanted=14 # versions differ in what they think of
found=$(clang-format --version | sed 's/.*version \([0-9]*\).*/\1/')
[ "$found" = $wanted ] || { echo "skipped: clang-format $found, not $wanted"; exit 77; }
git ls-files -z '*.c' '*.h' '*.inc' '*.cu' '*.cuh' '*.cpp' | xargs -0 clang-format --dry-run -Werror
