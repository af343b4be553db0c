# completion.sh SCRIPT OPTIONS: loads the completion as bash does and asks it, in a folder of its own. OPTIONS has a line
# "subcommand --option" for each that the program takes.
set -eu
# shellcheck disable=SC1090
source "$1"

fail() {
  echo "completion: $*" >&2
  exit 1
}

# complete_words WORD…: what it offers for the last one
complete_words() {
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  COMPREPLY=()
  _onnxpipe
  printf '%s\n' "${COMPREPLY[@]}" | sort
}

expect() { # expect LINES WORD…
  local expected=$1 got
  shift
  got=$(complete_words "$@")
  [[ $got == "$expected" ]] || fail "'$*' gives '$got', not '$expected'"
}

complete -p onnxpipe >/dev/null || fail "it is not registered"
mkdir place
cd place
touch one.onnx two.onnx data.npz 'with space.npz' notes.txt
mkdir sub
expect $'train' onnxpipe tr
expect $'one.onnx\nsub\ntwo.onnx' onnxpipe train ''
expect $'one.onnx' onnxpipe train o
expect $'data.npz\nnotes.txt\none.onnx\nsub\ntwo.onnx\nwith space.npz' onnxpipe train one.onnx --data ''
expect $'data.npz' onnxpipe train one.onnx --data = da
expect $'data.npz\nsub\nwith space.npz' onnxpipe run one.onnx --out ''
expect $'data.npz\nsub\nwith space.npz' onnxpipe run one.onnx --out =
expect $'sub' onnxpipe train one.onnx --checkpoint ''
expect $'--momentum' onnxpipe train one.onnx --mom
expect '' onnxpipe train one.onnx --lr ''
expect '' onnxpipe inspect one.onnx --mom
expect $'--json' onnxpipe inspect one.onnx --js
expect $'linear' onnxpipe train one.onnx --lr-schedule l
devices=$'auto\ncpu\nreference'
[ -z "${WITH_CUDA:-}" ] || devices=$'auto\ncpu\ncuda\nreference'
expect "$devices" onnxpipe run one.onnx --device = ''
cd ..
while read -r subcommand option; do
  complete_words onnxpipe "$subcommand" one.onnx "$option" | grep -qx -- "$option" ||
    fail "$subcommand $option is not offered"
done <"$2"
