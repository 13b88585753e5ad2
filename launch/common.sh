# shellcheck shell=bash
# Shared by the launchers of this folder; read by `.`, not run.

# One line on stderr, and exit status 2.
explain() {
  echo "launch: $*" >&2
  exit 2
}

# With DRY_RUN=1 a command is printed, quoted as it can be pasted, instead of run.
is_dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# A variable's value is a whole number from a smallest one (1), small enough for the shell's arithmetic.
check_number() { # name, value, smallest
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "${3:-1}" ] ||
    explain "$1: expected a number from ${3:-1} to 999999999; found '$2'"
}

# Processes and signals: a launcher outlives what it has started. `listen`, `start` each process, then `wait_for_all` or
# `await` one. A signal goes on to every process: USR1 and USR2 as they are, the others as TERM, at which training saves.
pids=() groups=() # processes that have not ended; the sessions of all
asked="" status=0 # the last signal that was passed on; the exit status that follows from the first
heard="" told=0 timer="" code=0
patience=${PATIENCE:-30} # seconds from the first signal to a KILL; empty: for ever
with_parent=()           # where the system can, a launcher that is killed takes its processes along: TERM
setpriv --pdeathsig TERM true 2>/dev/null && with_parent=(setpriv --pdeathsig TERM)

# From here on signals are passed on.
listen() {
  [ -z "$patience" ] || check_number PATIENCE "$patience" 0
  local name to
  for name in HUP INT QUIT ALRM TERM USR1 USR2; do
    case $name in
    USR1 | USR2) to=$name ;;
    *) to=TERM ;;
    esac
    # shellcheck disable=SC2064 # the values of now
    trap "pass_on $to $((128 + $(kill -l "$name")))" "$name"
  done
  trap : PIPE          # a log that nobody reads any more is no reason to end
  exec {never}<> <(:) # with nothing to read
}

pass_on() { # signal, exit status
  heard=yes told=${#pids[@]}
  [ -n "$asked" ] || status=$2
  asked=$1
  [ "$told" = 0 ] || kill -s "$1" "${pids[@]}" 2>/dev/null
  if [ -z "$timer" ] && [ -n "$patience" ]; then
    setsid "${with_parent[@]}" sleep "$patience" &
    timer=$!
  fi
}

# Starts a process, in a session of its own: a terminal's Ctrl-C reaches the launcher alone, which passes it on once.
# Nothing is started after a signal.
start() {
  [ -z "$asked" ] || return
  setsid "${with_parent[@]}" "$@" &
  pids+=($!) groups+=($!)
  if [ -n "$asked" ] && [ "$told" -lt "${#pids[@]}" ]; then
    kill -s "$asked" "$!" 2>/dev/null # the signal came while it was started
  fi
}

# A moment, or until a signal comes. (Bash's own `wait` misses some ends and alters some statuses when signals come.)
pause() { read -r -t 0.2 -u "$never"; }

is_there() { kill -0 "$1" 2>/dev/null; }

# Waits until a process has ended, whatever signals come meanwhile; its exit status is in `code`.
await() {
  while is_there "$1"; do pause; done
  while :; do
    heard=""
    wait "$1"
    code=$?
    [ -n "$heard" ] || return
  done
} 2>/dev/null # where the shell says what ended by which signal

# What processes have left behind in their sessions, such as workers of one that was killed.
end_groups() {
  local pid
  for pid in "${groups[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
}

# Waits for all processes. The first that fails ends the others, and so does a signal; those that are still there after
# $PATIENCE seconds are killed. Returns 128 and the signal's number, or the first status that is not 0.
wait_for_all() {
  local pid left
  while [ "${#pids[@]}" -gt 0 ]; do
    pause
    left=()
    for pid in "${pids[@]}"; do
      is_there "$pid" && left+=("$pid") && continue
      await "$pid"
      [ "$code" = 0 ] || [ -n "$asked" ] || pass_on TERM "$code"
    done
    pids=("${left[@]}")
    [ -z "$timer" ] || is_there "$timer" || end_groups
  done
  [ -z "$asked" ] || end_groups
  [ -z "$timer" ] || kill "$timer" 2>/dev/null
  return "$status"
}

# A command line for the shell of another host; when the connection ends that shell hears of it, and lets the process
# save.
remote() { # folder, quoted for that shell; command
  local folder=$1
  shift
  printf "cd %s && { %s& child=\$!; trap 'kill -TERM \$child' HUP INT TERM USR1 USR2; wait \$child; code=\$?; " \
    "$folder" "$(printf '%q ' "$@")"
  printf "while kill -0 \$child 2>/dev/null; do wait \$child; code=\$?; done; exit \$code; }"
}

# A secret of this start, by which its processes know each other (rankclip_jax/distributed/rendezvous.py).
new_token() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
