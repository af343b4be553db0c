#!/bin/sh
# test_package.sh BUILD: installs that build into an empty prefix and uses it as a user would: header, library, pkg-config,
# example, manual page, completion. Invariant: nothing but the prefix, a compiler and pkg-config is used.
set -eu
build=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d /tmp/onnxpipe-package-XXXXXX)
trap 'rm -rf "$folder"' EXIT
prefix=$folder/prefix

wrong() {
  echo "test_package.sh: $*" >&2
  exit 1
}

# the program alone is built, as the quickstart does: what is installed beside it is there, too
rm -f "$build/onnxpipe.1" "$build/onnxpipe.bash"
cmake --build "$build" --target onnxpipe >"$folder/build.log" || { cat "$folder/build.log"; exit 1; }
cmake --install "$build" --prefix "$prefix" >"$folder/install.log" || { cat "$folder/install.log"; exit 1; }

# what lies there: one header, one library with its soname
[ "$(ls "$prefix/include")" = onnxpipe.h ] || wrong "headers: $(ls "$prefix/include")"
library=$(find "$prefix" -name 'libonnxpipe.so')
[ -L "$library" ] || wrong "libonnxpipe.so is no link to the library of a version"
lib=$(dirname "$library")
[ -e "$lib/libonnxpipe.so.0" ] || wrong "no libonnxpipe.so.0"
[ -z "$(find "$prefix" -name '*.a')" ] || wrong "static libraries are installed"
strays=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^onnxpipe_' || true)
[ -z "$strays" ] || [ -n "${SANITIZED:-}" ] || wrong "the library exports more than onnxpipe_*: $strays"
declared=$(grep -o '\bonnxpipe_[a-z_]*(' "$prefix/include/onnxpipe.h" | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$library" | awk '{print $3}' | grep '^onnxpipe_' | sort -u)
[ "$declared" = "$exported" ] || wrong "the header declares" $declared "- the library exports" $exported

# the header alone, as C and as C++ where there is a C++ compiler
echo '#include <onnxpipe.h>' >"$folder/alone.c"
cc -std=c99 -Wall -Wextra -Werror -pedantic -I"$prefix/include" -fsyntax-only "$folder/alone.c"
if command -v c++ >/dev/null 2>&1; then
  c++ -Wall -Wextra -Werror -I"$prefix/include" -fsyntax-only -x c++ "$folder/alone.c"
fi

# the example through pkg-config, alone and on ranks
example=$(find "$prefix" -path '*/examples/train.c')
export PKG_CONFIG_PATH="$lib/pkgconfig"
cp "$example" "$folder/train.c"
# shellcheck disable=SC2046,SC2086
(cd "$folder" && cc -Wall -Wextra -Werror train.c -o train ${SANITIZED:+-fsanitize=$SANITIZED} \
  $(pkg-config --cflags --libs onnxpipe))
[ "$(pkg-config --modversion onnxpipe)" = "$("$prefix/bin/onnxpipe" --version | sed -n 's/^onnxpipe //p')" ] ||
  wrong "pkg-config and the program differ about the version"
# it finds the library where pkg-config said that it lies
set -- "$root/models/nanogpt/model.onnx" "$root/models/nanogpt/data.npz"
"$folder/train" "$@" "$folder/alone.onnx" >"$folder/alone.txt"
grep '^step [0-9]' "$folder/alone.txt"
[ "$(grep -c '^step [0-9]' "$folder/alone.txt")" = 6 ] || wrong "the example took other steps than 6"
awk '/^step [0-9]/ { loss = $NF; if (!first) first = loss } END { exit !(loss < first) }' "$folder/alone.txt" ||
  wrong "the example's loss does not fall"
if command -v mpirun >/dev/null 2>&1 && [ -z "${WITHOUT_MPI:-}" ]; then
  . "$root/tools/mpi_environment.sh"
  ASAN_OPTIONS=detect_leaks=0 mpirun -n 2 "$folder/train" "$@" "$folder/ranks.onnx" >"$folder/ranks.txt"
  [ "$(grep -c '^step [0-9]' "$folder/ranks.txt")" = 6 ] || wrong "the example on ranks took other steps than 6"
fi
if "$folder/train" "$folder/no.onnx" "$2" "$folder/never.onnx" >/dev/null 2>"$folder/error.txt"; then
  wrong "the example trains what is not there"
fi
[ "$(wc -l <"$folder/error.txt")" = 1 ] || wrong "the example prints no single line: $(cat "$folder/error.txt")"

# the program finds its library by itself, also from elsewhere
mv "$prefix" "$folder/moved"
prefix=$folder/moved
"$prefix/bin/onnxpipe" run "$folder/alone.onnx" --data "$2" --out "$folder/out.npz" || wrong "the installed program fails"
"$prefix/bin/onnxpipe" inspect "$folder/alone.onnx" --json >/dev/null || wrong "what the example saved is no model"

# the launcher, under its own name
"$prefix/bin/onnxpipe-launch" --help | grep -q '^usage: onnxpipe-launch -n N' || wrong "onnxpipe-launch --help says no usage"

# the manual page, without warnings, and with every subcommand and option of the help
page=$prefix/share/man/man1/onnxpipe.1
if command -v groff >/dev/null 2>&1; then
  groff -man -Tutf8 -Kutf8 -ww -P-cbou "$page" >"$folder/page.txt" 2>"$folder/warnings.txt"
  [ ! -s "$folder/warnings.txt" ] || wrong "groff warns: $(cat "$folder/warnings.txt")"
else
  echo "test_package.sh: no groff here: the manual page is not rendered"
  sed 's/\\-/-/g' "$page" >"$folder/page.txt"
fi
subcommands=$("$prefix/bin/onnxpipe" --help | sed -n 's/^  onnxpipe \([a-z]*\) .*/\1/p')
[ -n "$subcommands" ] || wrong "--help lists no subcommands"
for subcommand in $subcommands; do
  "$prefix/bin/onnxpipe" "$subcommand" --help >"$folder/help.txt" || wrong "$subcommand --help fails"
  for option in $(sed -n 's/^  \(-., \)\{0,1\}\(--[a-z0-9-]*\).*/\2/p' "$folder/help.txt"); do
    grep -q -- "$option\\b" "$folder/page.txt" || wrong "the manual page lacks $option"
    echo "$subcommand $option" >>"$folder/options.txt"
  done
done
[ "$(wc -l <"$folder/options.txt")" -gt 60 ] || wrong "--help lists few options"

if command -v bash >/dev/null 2>&1; then
  (cd "$folder" && bash "$root/tests/package/completion.sh" "$prefix/share/bash-completion/completions/onnxpipe" options.txt)
else
  echo "test_package.sh: no bash here: the completion is not tried"
fi
echo "the installed package works"
