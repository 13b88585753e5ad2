#!/usr/bin/env bash
# Runs the same command on every worker of a TPU VM or pod slice. JAX discovers the other workers:
#   ZONE=us-central1-a launch/tpu-vm.sh NAME python -m rankclip_jax.train --config configs/cc3m.py
# Each worker needs the code in ~/rankclip_jax (or REMOTE_FOLDER). DRY_RUN=1 prints the command without running it.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
listen

name=${1:-}
[ -n "$name" ] || explain "no TPU name. Use: ZONE=us-central1-a launch/tpu-vm.sh NAME COMMAND"
shift
[ $# -gt 0 ] || explain "no command. Use: launch/tpu-vm.sh $name python -m rankclip_jax.train --config configs/cc3m.py"
[ -n "${ZONE:-}" ] || explain "ZONE: not set. Use: ZONE=us-central1-a launch/tpu-vm.sh $name ..."

there=$(remote "${REMOTE_FOLDER:-rankclip_jax}" "$@")
call=(gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker=all --command="$there" -- -tt)
if is_dry; then
  printf '%q ' "${call[@]}"
  echo
  exit
fi
start "${call[@]}" </dev/null
wait_for_all
