# shellcheck shell=bash
# Shared functions of the launchers in this folder. Source this file; do not run it.

# Prints one line to stderr and exits with status 2.
explain() {
  echo "launch: $*" >&2
  exit 2
}

# With DRY_RUN=1, launchers print commands, quoted for a shell, instead of running them.
is_dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# Exits unless a value is an integer of at least `smallest` (default 1) that fits the shell's arithmetic.
check_number() { # name, value, smallest
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$2" -ge "${3:-1}" ] ||
    explain "$1: expected a number from ${3:-1} to 999999999; found '$2'"
}

# Processes and signals. A launcher outlives the processes that it starts. Call `listen`, `start` each process, then
# `wait_for_all`, or `await` one process. Every process gets each signal: USR1 and USR2 unchanged, the others as TERM,
# on which training saves.
pids=() groups=() # running processes; the sessions of all processes
asked="" status=0 # the last forwarded signal; the exit status, from the first signal
heard="" told=0 timer="" code=0
patience=${PATIENCE:-30} # seconds from the first signal to KILL; empty: no limit
with_parent=()           # sends TERM to the processes if the launcher is killed, where the system supports it
setpriv --pdeathsig TERM true 2>/dev/null && with_parent=(setpriv --pdeathsig TERM)

# Forwards signals from now on.
listen() {
  [ -z "$patience" ] || check_number PATIENCE "$patience" 0
  local name to
  for name in HUP INT QUIT ALRM TERM USR1 USR2; do
    case $name in
    USR1 | USR2) to=$name ;;
    *) to=TERM ;;
    esac
    # shellcheck disable=SC2064 # expand now
    trap "pass_on $to $((128 + $(kill -l "$name")))" "$name"
  done
  trap : PIPE          # keep running if the log has no reader any more
  exec {never}<> <(:) # a descriptor without data, for `pause`
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

# Starts a process in its own session. Ctrl-C in a terminal then reaches only the launcher, which forwards it once.
# Starts nothing after a signal.
start() {
  [ -z "$asked" ] || return
  setsid "${with_parent[@]}" "$@" &
  pids+=($!) groups+=($!)
  if [ -n "$asked" ] && [ "$told" -lt "${#pids[@]}" ]; then
    kill -s "$asked" "$!" 2>/dev/null # the signal arrived during the start
  fi
}

# Sleeps briefly, or until a signal arrives. (Bash's `wait` misses some exits and changes some statuses on signals.)
pause() { read -r -t 0.2 -u "$never"; }

is_there() { kill -0 "$1" 2>/dev/null; }

# Waits until a process has exited, across signals. Sets `code` to its exit status.
await() {
  while is_there "$1"; do pause; done
  while :; do
    heard=""
    wait "$1"
    code=$?
    [ -n "$heard" ] || return
  done
} 2>/dev/null # the shell's messages about signals

# Kills what is left in the sessions of the processes, such as the workers of a killed process.
end_groups() {
  local pid
  for pid in "${groups[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
}

# Waits for all processes. The first failure, or a signal, stops the others. Processes that still run after $PATIENCE
# seconds are killed. Returns 128 plus the signal's number, or the first nonzero status.
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

# Prints a command line for the shell of another host. If the connection closes, that shell sends TERM to the process
# and lets it save.
remote() { # folder, quoted for that shell; command
  local folder=$1
  shift
  printf "cd %s && { %s& child=\$!; trap 'kill -TERM \$child' HUP INT TERM USR1 USR2; wait \$child; code=\$?; " \
    "$folder" "$(printf '%q ' "$@")"
  printf "while kill -0 \$child 2>/dev/null; do wait \$child; code=\$?; done; exit \$code; }"
}

# Prints a random secret by which the processes of one start authenticate (rankclip_jax/distributed/rendezvous.py).
new_token() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
