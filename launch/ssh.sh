#!/usr/bin/env bash
# Runs a command on each host of a list, with one host name per line. The first host is the coordinator:
#   launch/ssh.sh hosts.txt python -m rankclip_jax.train --config configs/cc3m.py
# Each host needs the same folder with the same files (REMOTE_FOLDER; default: the current folder). SSH_OPTIONS are
# passed to ssh. DRY_RUN=1 prints the commands without running them.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
listen

list=${1:-}
[ -r "$list" ] || explain "no file of hosts at '$list'. Write one host name per line. Use: launch/ssh.sh hosts.txt COMMAND"
shift
[ $# -gt 0 ] || explain "no command. Use: launch/ssh.sh $list python -m rankclip_jax.train --config configs/cc3m.py"
mapfile -t hosts < <(grep -v -E '^[[:space:]]*(#|$)' "$list")
[ "${#hosts[@]}" -gt 0 ] || explain "$list names no host. Write one host name per line."

folder=${REMOTE_FOLDER:-$PWD} port=${PORT:-8476}
check_number PORT "$port"
coordinator=${COORDINATOR:-${hosts[0]#*@}}:$port
read -ra options <<<"${SSH_OPTIONS:-}"

token=$(new_token)
is_dry && token=SECRET
for number in "${!hosts[@]}"; do
  there=$(remote "$(printf %q "$folder")" env RANKCLIP_JAX_TOKEN="$token" JAX_COORDINATOR_ADDRESS="$coordinator" \
    JAX_NUM_PROCESSES="${#hosts[@]}" JAX_PROCESS_ID="$number" "$@")
  call=(ssh -tt -o BatchMode=yes "${options[@]}" "${hosts[number]}" "$there")
  if is_dry; then
    printf '%q ' "${call[@]}"
    echo
  else
    start "${call[@]}" </dev/null
  fi
done
is_dry || wait_for_all
