# Sourced, with $0 and arguments, by scripts around tests/conformance: root, here, program (built where the first argument is
# none), python (one that can import what $needs says; skipped otherwise); "$@" is what is left for the Python script.
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
case ${1:-} in
'' | -*)
  cmake --build "$root/build/release" --target conformance >&2
  program=$root/build/release/tests/conformance
  ;;
*)
  program=$1
  shift
  ;;
esac
python=$root/build/venv/bin/python
if ! "$python" -c "import $needs" 2>/dev/null; then
  echo "skipped: build/venv has not $needs (sh tests/venv.sh makes it)"
  exit 77
fi
