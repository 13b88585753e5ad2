#!/usr/bin/env bash
# A process of a command on each host of a list, one name a line; the first is the coordinator:
#   launch/ssh.sh hosts.txt python -m rankclip_jax.train --config configs/cc3m.py
# The same folder, with the same files, is expected on each (REMOTE_FOLDER; this one unless given). SSH_OPTIONS go to ssh,
# DRY_RUN=1 prints what would run.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
listen

list=${1:-}
[ -r "$list" ] || explain "no file of hosts at '$list'. Write one name a line, and say: launch/ssh.sh hosts.txt COMMAND"
shift
[ $# -gt 0 ] || explain "no command. Say: launch/ssh.sh $list python -m rankclip_jax.train --config configs/cc3m.py"
mapfile -t hosts < <(grep -v -E '^[[:space:]]*(#|$)' "$list")
[ "${#hosts[@]}" -gt 0 ] || explain "$list names no host. Write one name a line."

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
