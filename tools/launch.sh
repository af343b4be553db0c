#!/bin/sh
# Runs a training under mpirun and, when a rank or a host of it is lost, again from its last checkpoint on what is left;
# --help says how. Invariant: the status is that of the last run.
set -eu
me=${0##*/}

usage() {
  cat <<END
usage: $me -n N [--hostfile FILE] [--retries K] [MPIRUN-OPTION...] -- onnxpipe train MODEL --checkpoint DIR ...

Runs \`mpirun -n N\`. When a rank dies or does not answer, starts again with --resume DIR:
  with --hostfile on the hosts that still answer the launch agent, on as many ranks as they have slots, N at most;
  where all answer, or without --hostfile, on one rank fewer, and at least one.
  --retries K   end when ranks were lost K times more without a newer checkpoint (3)
The launch agent is ssh, or what OMPI_MCA_plm_rsh_agent says. DIR must be seen from here, too. Options of mpirun that are
given hold no blanks. A run that ends well (status 0), was not understood (2), could not save (3), was stopped (130, 143) or
fails by itself (1: its data, its numbers) is not started again. SIGINT, SIGTERM and SIGUSR1 are passed on to mpirun.
END
}

say() {
  echo "$me: $*" >&2
}

misused() {
  say "$*"
  exit 2
}

ranks='' hostfile='' retries=3 more=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
  -h | --help)
    usage
    exit 0
    ;;
  -n | -np | --hostfile | --retries)
    [ $# -gt 1 ] || misused "$1 needs a value"
    case $1 in
    -n | -np) ranks=$2 ;;
    --hostfile) hostfile=$2 ;;
    --retries) retries=$2 ;;
    esac
    shift
    ;;
  *) more="$more $1" ;;
  esac
  shift
done
[ $# -gt 1 ] || misused "what is to run comes behind --: $me --help"
shift
case $ranks in '' | *[!0-9]* | 0* | ?????*) misused "-n needs a number of ranks, 9999 at most: $me --help" ;; esac
case $retries in '' | *[!0-9]* | ???????*) misused "--retries needs a number: $me --help" ;; esac
[ -z "$hostfile" ] || [ -r "$hostfile" ] || misused "$hostfile: cannot be read"
# On other hosts it may be where it is not here.
if [ -z "$hostfile" ] && ! command -v "$1" >/dev/null; then
  say "$1: there is no such program"
  exit 127
fi

# Where checkpoints go: --checkpoint's folder, else --resume's.
folder='' resumed='' before=''
for word in "$@"; do
  case $before in
  --checkpoint) folder=$word ;;
  --resume) resumed=$word ;;
  esac
  case $word in
  --checkpoint=*) folder=${word#*=} ;;
  --resume=*) resumed=${word#*=} ;;
  --ranks | --plan | --ranks=* | --plan=*) misused "${word%%=*} fixes the number of ranks, which may have to fall: -n says it" ;;
  esac
  before=$word
done
folder=${folder:-$resumed}
[ "$folder" ] || misused "there would be nothing to go on from: give train --checkpoint DIR"

newest() {
  found=''
  for path in "$folder"/step-*; do
    [ ! -d "$path" ] || found=$path
  done
  echo "$found"
}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/onnxpipe-launch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
process='' stopped=''
pass_on() {
  [ -z "$process" ] || kill -s "$1" "$process" 2>/dev/null || true
}
trap 'stopped=130; pass_on INT' INT
trap 'stopped=143; pass_on TERM' TERM
trap 'pass_on USR1' USR1

# Whether it was said that a rank or a host was lost: by a rank of ours, the watchdog, mpirun.
is_lost() {
  grep -q -e '^onnxpipe: rank [0-9]* died: ' -e '^onnxpipe: rank [0-9]* at .* does not answer' -e '^onnxpipe: .* (--timeout)$' \
    -e 'noticed that process rank' -e 'lost communication with' -e 'daemon has unexpectedly failed' "$scratch/said"
}

# Runs the words, in a session of their own: a terminal's Ctrl-C comes through here, once. mpirun would wait for its daemon on
# a host that is cut off: 15 seconds after a rank was lost it is killed.
run() {
  rm -f "$scratch/errors"
  mkfifo "$scratch/errors"
  : >"$scratch/said"
  tee "$scratch/said" <"$scratch/errors" >&2 &
  listener=$!
  setsid "$@" 2>"$scratch/errors" &
  process=$!
  looks=0
  while kill -0 "$process" 2>/dev/null; do
    sleep 0.5 &
    wait $! || true
    ! is_lost || looks=$((looks + 1))
    [ $looks -lt 30 ] || pass_on KILL
  done
  status=0
  wait "$process" || status=$?
  process=''
  for _ in 1 2 3 4 5 6 7 8 9 10; do # what mpirun left may still hold the other end of the pipe
    kill -0 "$listener" 2>/dev/null || break
    sleep 0.1 &
    wait $! || true
  done
  kill "$listener" 2>/dev/null || true
}

answers() {
  for own in localhost "$(uname -n)" $(hostname -I 2>/dev/null || true); do
    [ "$1" != "$own" ] || return 0
  done
  # shellcheck disable=SC2086
  timeout 10 ${OMPI_MCA_plm_rsh_agent:-ssh -o BatchMode=yes -o ConnectTimeout=5} "$1" true </dev/null >/dev/null 2>&1
}

# Leaves the hosts that answer in $scratch/hostfile; slots: how many ranks they take; silent: those that do not.
look_at_hosts() {
  slots=0 silent=''
  { cat "$hostfile" && echo; } | sed 's/#.*//; /^[[:space:]]*$/d' >"$scratch/lines" # its last line may have no end
  each=$(((asked + $(wc -l <"$scratch/lines") - 1) / $(wc -l <"$scratch/lines"))) # where the file does not say
  : >"$scratch/hostfile"
  while read -r host rest; do
    if answers "$host"; then
      echo "$host $rest" >>"$scratch/hostfile"
      has=$(echo "$rest" | sed -n 's/.*slots *= *\([0-9][0-9]*\).*/\1/p')
      slots=$((slots + ${has:-$each}))
    else
      silent="$silent $host"
    fi
  done <"$scratch/lines"
}

asked=$ranks failed=0 from='' hosts=$hostfile
while :; do
  had=$(newest)
  # shellcheck disable=SC2086
  run mpirun -n "$ranks" ${hosts:+--hostfile "$hosts"} $more "$@" ${from:+--resume "$folder"}
  case $status in
  0 | 2 | 3 | 126 | 127 | 130 | 143) exit "$status" ;;
  1) is_lost || exit 1 ;;
  esac
  [ -z "$stopped" ] || exit "$status"
  from=$(newest)
  failed=$((failed + 1))
  [ "$from" = "$had" ] || failed=1
  if [ $failed -gt "$retries" ]; then
    say "status $status: gives up, for $failed times ranks were lost with no checkpoint newer than ${from:-none}"
    exit "$status"
  fi
  why="a rank was lost"
  left=$((ranks > 1 ? ranks - 1 : 1))
  if [ "$hostfile" ]; then
    look_at_hosts
    hosts=$scratch/hostfile
    if [ $slots -eq 0 ]; then
      say "status $status: gives up, for no host answers:$silent"
      exit "$status"
    fi
    if [ "$silent" ]; then
      why="no answer from$silent"
      left=$((ranks < slots ? ranks : slots))
    fi
  fi
  [ -z "$stopped" ] || exit "$stopped"
  ranks=$left
  say "status $status, $why: goes on with $ranks rank(s) from ${from:-the beginning}"
done
