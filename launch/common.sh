# shellcheck shell=bash
# Shared by the launchers of this folder; read by `.`, not run.

# One line on stderr, and exit status 2.
explain() {
  echo "launch: $*" >&2
  exit 2
}

# With DRY_RUN=1 a command is printed, quoted as it can be pasted, instead of run.
is_dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# Waits for the processes of these numbers, each the leader of a session of its own. The first that fails, Ctrl-C or
# a SIGTERM ends all: training saves at a SIGTERM. Who is still there after $PATIENCE seconds is killed. The first
# status that is not 0 is returned.
wait_for_all() {
  local code
  pids=("$@") status=0 ending="" timer=""
  trap 'end_all 130' INT
  trap 'end_all 143' TERM HUP
  while :; do
    wait -n "${pids[@]}" 2>/dev/null # which has a word for those that were waited for already
    code=$?
    [ $code = 127 ] && break
    [ $code != 0 ] && end_all $code
  done
  [ -n "$timer" ] && kill "$timer" 2>/dev/null
  return "$status"
}

end_all() {
  [ -n "$ending" ] && return
  ending=yes status=$1
  kill -TERM "${pids[@]}" 2>/dev/null
  (
    trap - INT HUP
    trap 'kill "$!"; exit' TERM
    sleep "${PATIENCE:-30}" &
    wait "$!"
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
  ) &
  timer=$!
}
