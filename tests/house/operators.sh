#!/bin/sh
# operators.sh LIST [--write]: the last section of docs/operators.md is what the tables of operators and backends say. LIST is
# the built tests/house/operators.c; --write writes the section anew.
set -eu
cd "$(dirname "$0")/../.."
begin='<!-- from the tables: sh tests/house/operators.sh build/release/tests/list_operators --write -->'
cpu=$(sed -n 's/^ *VISIT(\([A-Za-z]*\)).*/\1/p' backend/cpu/cpu.h | tr '\n' ' ')
cuda=$(sed -n 's/^ *VISIT(\([A-Za-z]*\)).*/\1/p' backend/cuda/cuda.h | tr '\n' ' ')
table=$(
  echo '| operator | inputs | outputs | differentiated | sample by sample | faster on cpu | on cuda |'
  echo '|---|---|---|---|---|---|---|'
  "$1" | while IFS= read -r line; do
    name=${line%%"$(printf '\t')"*}
    case " $cpu" in *" $name "*) fast=yes ;; *) fast= ;; esac
    case " $cuda" in *" $name "*) device=yes ;; *) device= ;; esac
    printf '| %s | %s | %s |\n' "$(printf '%s' "$line" | sed "s/$(printf '\t')/ | /g")" "$fast" "$device"
  done
)
if [ "${2:-}" = --write ]; then
  sed -i "/^<!-- from the tables/,\$d" docs/operators.md
  printf '%s\n%s\n' "$begin" "$table" >>docs/operators.md
  exit 0
fi
there=$(sed -n '/^<!-- from the tables/,$p' docs/operators.md)
[ "$there" = "$(printf '%s\n%s' "$begin" "$table")" ] && exit 0
echo "operators.sh: docs/operators.md is not what the tables say: $begin" >&2
exit 1
