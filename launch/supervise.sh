#!/usr/bin/env bash
# Starts a training again from its last checkpoint when it fails, on this machine, until it is finished:
#   launch/supervise.sh launch/local.sh 2 python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m
# Gives up after $FAILURES (3) in a row without a new checkpoint, $PAUSE (10) seconds apart, and at once after what a
# person must mend: status 2, or a command that is not there. Each is recorded in the workdir's events.jsonl. Ctrl-C and
# SIGTERM go to the training, which saves, and nothing is started again. DRY_RUN=1 prints what would run.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || explain "no command. Say: launch/supervise.sh python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m"
workdir="" previous=""
for word in "$@"; do
  case $previous in --workdir | -workdir) workdir=$word ;; esac
  case $word in --workdir=* | -workdir=*) workdir=${word#*=} ;; esac
  previous=$word
done
[ -n "$workdir" ] || explain "the command has no --workdir, where its checkpoints are looked for. Add --workdir=runs/NAME"
limit=${FAILURES:-3} pause=${PAUSE:-10}
case $limit in
*[!0-9]* | 0*) explain "FAILURES: expected a number of failures; found '$limit'" ;;
esac
case $pause in
*[!0-9]*) explain "PAUSE: expected a number of seconds; found '$pause'" ;;
esac
case $workdir in
*://*) explain "--workdir: expected a folder on a disk, whose checkpoints this script looks at; found '$workdir'" ;;
esac
if is_dry; then
  printf '%q ' "$@"
  echo
  exit
fi

newest() {
  local folder step=0
  for folder in "$workdir"/checkpoints/*; do
    folder=${folder##*/}
    case $folder in *[!0-9]*) continue ;; esac
    [ "$folder" -gt "$step" ] && step=$folder
  done
  echo "$step"
}

record() { # event, status, checkpoint
  [ -d "$workdir" ] && printf '{"time": "%s", "host": "%s", "process": %d, "event": "%s", "status": %d, "checkpoint": %d}\n' \
    "$(date +%Y-%m-%dT%H:%M:%S%z)" "$(hostname)" $$ "$1" "$2" "$3" >>"$workdir/events.jsonl"
}

stopped="" failures=0
trap 'stopped=yes; kill -INT "$running" 2>/dev/null' INT
trap 'stopped=yes; kill -TERM "$running" 2>/dev/null' TERM HUP
while :; do
  before=$(newest)
  # A session of its own: a terminal's Ctrl-C reaches this script alone, which passes it on once.
  setsid env --default-signal=INT "$@" &
  running=$!
  wait "$running"
  status=$?
  while kill -0 "$running" 2>/dev/null; do # the wait ended with a signal, not with the command
    wait "$running"
    status=$?
  done
  [ "$status" = 0 ] && exit
  [ -n "$stopped" ] && exit "$status"
  after=$(newest)
  failures=$((failures + 1))
  [ "$after" -gt "$before" ] && failures=1
  case $status in 2 | 126 | 127) limit=$failures ;; esac
  if [ "$failures" -ge "$limit" ]; then
    record given_up "$status" "$after"
    echo "launch: given up at step $after, with status $status: $failures failure(s) without a new checkpoint" >&2
    exit "$status"
  fi
  record started_again "$status" "$after"
  echo "launch: ended with status $status; started again from step $after in $pause s ($failures of $limit failures)" >&2
  sleep "$pause" &
  wait $!
  [ -n "$stopped" ] && exit "$status"
done
