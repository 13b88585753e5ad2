#!/usr/bin/env bash
# Starts a training again from its last checkpoint when it fails, on this machine, until it is finished:
#   launch/supervise.sh launch/local.sh 2 python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m
# Gives up after $FAILURES (3) in a row without a new checkpoint, $PAUSE (10) seconds apart, and at once after what a
# person must mend: status 2, or a command that is not there. Each is recorded in the workdir's events.jsonl. A signal
# goes to the training, which saves, and nothing is started again. DRY_RUN=1 prints what would run.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
patience="" # how long a command may take to end is its own matter
listen

[ $# -gt 0 ] || explain "no command. Say: launch/supervise.sh python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m"
workdir="" previous=""
for word in "$@"; do
  case $previous in --workdir | -workdir) workdir=$word ;; esac
  case $word in --workdir=* | -workdir=*) workdir=${word#*=} ;; esac
  previous=$word
done
[ -n "$workdir" ] || explain "the command has no --workdir, where its checkpoints are looked for. Add --workdir=runs/NAME"
limit=${FAILURES:-3} pause=${PAUSE:-10}
check_number FAILURES "$limit"
check_number PAUSE "$pause" 0
case $workdir in
*://*) explain "--workdir: expected a folder on a disk, whose checkpoints this script looks at; found '$workdir'" ;;
esac
if is_dry; then
  printf '%q ' "$@"
  echo
  exit
fi

# The step of the newest checkpoint: a numbered folder with the digests that a finished one has.
newest() {
  local folder step=0
  for folder in "$workdir"/checkpoints/*; do
    [ -s "$folder/SHA256SUMS" ] || continue
    folder=${folder##*/}
    [[ $folder =~ ^[1-9][0-9]{0,17}$ ]] && ((folder > step)) && step=$folder
  done
  echo "$step"
}

record() { # event, status, checkpoint
  [ -d "$workdir" ] && printf '{"time": "%s", "host": "%s", "process": %d, "event": "%s", "status": %d, "checkpoint": %d}\n' \
    "$(date +%Y-%m-%dT%H:%M:%S%z)" "$(hostname)" $$ "$1" "$2" "$3" >>"$workdir/events.jsonl"
}

# Starts a command and waits for its end, with nothing of it left. `code`: its exit status.
run() {
  groups=()
  start env --default-signal=INT,QUIT "$@"
  [ "${#pids[@]}" -gt 0 ] || exit "${ended:-$status}" # a signal came first
  await "${pids[0]}"
  pids=()
  end_groups
}

failures=0 ended=""
while :; do
  before=$(newest)
  run "$@"
  ended=$code
  [ "$ended" = 0 ] && exit
  [ "$ended" = 143 ] && [ -n "$asked" ] && ended=$status # by the TERM that was made of this signal
  [ -n "$asked" ] && exit "$ended"
  after=$(newest)
  failures=$((failures + 1))
  [ "$after" -gt "$before" ] && failures=1
  case $ended in 2 | 126 | 127) limit=$failures ;; esac
  if [ "$failures" -ge "$limit" ]; then
    record given_up "$ended" "$after"
    echo "launch: given up at step $after, with status $ended: $failures failure(s) without a new checkpoint" >&2
    exit "$ended"
  fi
  record started_again "$ended" "$after"
  echo "launch: ended with status $ended; started again from step $after in $pause s ($failures of $limit failures)" >&2
  run sleep "$pause"
  [ -n "$asked" ] && exit "$ended"
done
