#!/usr/bin/env bash
# The same command on every worker of a TPU VM or pod slice; JAX finds the others by itself:
#   ZONE=us-central1-a launch/tpu-vm.sh NAME python -m rankclip_jax.train --config configs/cc3m.py
# The code is expected in ~/rankclip_jax on each (REMOTE_FOLDER). DRY_RUN=1 prints what would run.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
listen

name=${1:-}
[ -n "$name" ] || explain "no TPU. Say: ZONE=us-central1-a launch/tpu-vm.sh NAME COMMAND"
shift
[ $# -gt 0 ] || explain "no command. Say: launch/tpu-vm.sh $name python -m rankclip_jax.train --config configs/cc3m.py"
[ -n "${ZONE:-}" ] || explain "ZONE: not set. Say: ZONE=us-central1-a launch/tpu-vm.sh $name ..."

there=$(remote "${REMOTE_FOLDER:-rankclip_jax}" "$@")
call=(gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker=all --command="$there" -- -tt)
if is_dry; then
  printf '%q ' "${call[@]}"
  echo
  exit
fi
start "${call[@]}" </dev/null
wait_for_all
