#!/usr/bin/env bash
# Restarts a training on this machine from its last checkpoint when it fails, until it is finished:
#   launch/supervise.sh launch/local.sh 2 python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m
# Gives up after $FAILURES (3) consecutive failures without a new checkpoint, $PAUSE (10) seconds apart. Gives up at
# once after an error that a user must fix: status 2, or a missing command. Each failure is recorded in the workdir's
# events.jsonl. A signal goes to the training, which saves and is not restarted. DRY_RUN=1 prints the command without
# running it.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
patience="" # no limit: the command decides how long its shutdown takes
listen

[ $# -gt 0 ] || explain "no command. Use: launch/supervise.sh python -m rankclip_jax.train --config configs/cc3m.py --workdir runs/cc3m"
workdir="" previous=""
for word in "$@"; do
  case $previous in --workdir | -workdir) workdir=$word ;; esac
  case $word in --workdir=* | -workdir=*) workdir=${word#*=} ;; esac
  previous=$word
done
[ -n "$workdir" ] || explain "the command has no --workdir, so its checkpoints cannot be found. Add --workdir=runs/NAME"
limit=${FAILURES:-3} pause=${PAUSE:-10}
check_number FAILURES "$limit"
check_number PAUSE "$pause" 0
case $workdir in
*://*) explain "--workdir: expected a folder on a disk, because this script reads its checkpoints; found '$workdir'" ;;
esac
if is_dry; then
  printf '%q ' "$@"
  echo
  exit
fi

# Prints the step of the newest checkpoint: a numbered folder with the checksums of a finished checkpoint.
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

# Runs a command until it exits, and kills what is left of it. Sets `code` to its exit status.
run() {
  groups=()
  start env --default-signal=INT,QUIT "$@"
  [ "${#pids[@]}" -gt 0 ] || exit "${ended:-$status}" # a signal arrived first
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
  [ "$ended" = 143 ] && [ -n "$asked" ] && ended=$status # it ended by TERM, which replaced the user's signal
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
  echo "launch: ended with status $ended; restarting from step $after in $pause s (failure $failures of $limit)" >&2
  run sleep "$pause"
  [ -n "$asked" ] && exit "$ended"
done
