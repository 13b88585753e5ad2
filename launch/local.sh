#!/usr/bin/env bash
# Runs N processes of a command on this machine, as on N hosts:
#   launch/local.sh 2 python -m rankclip_jax.train --config configs/demo.py
# GPUs, if any, are divided evenly among the processes. DRY_RUN=1 prints the commands without running them.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
listen

count=${1:-}
[[ $count =~ ^[1-9][0-9]{0,4}$ ]] ||
  explain "expected a number of processes first; found '$count'. Use: launch/local.sh 2 COMMAND"
shift
[ $# -gt 0 ] || explain "no command. Use: launch/local.sh $count python -m rankclip_jax.train --config configs/demo.py"

port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
check_number PORT "$port"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
share=$((gpus / count))
if [ "$gpus" -gt 0 ] && [ "$share" = 0 ]; then
  explain "$count processes cannot share $gpus GPU(s). Use: launch/local.sh $gpus COMMAND, or hide the GPUs: JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES="
fi

RANKCLIP_JAX_TOKEN=$(new_token)
export RANKCLIP_JAX_TOKEN
for ((number = 0; number < count; number++)); do
  own=(JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$number")
  if [ "$share" -gt 0 ]; then
    own+=(CUDA_VISIBLE_DEVICES="$(seq -s, $((number * share)) $((number * share + share - 1)))")
  fi
  if is_dry; then
    printf '%q ' env "${own[@]}" "$@"
    echo
  else
    start env "${own[@]}" "$@"
  fi
done
is_dry || wait_for_all
