#!/usr/bin/env bash
# Trains under SLURM, and goes on by itself after a time limit or a preemption:
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config configs/cc3m.py --workdir runs/cc3m
# A process for each GPU, or so many on each node: PROCESSES=1. DRY_RUN=1 prints what would run in the job.
#SBATCH --job-name=rankclip
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -u

python=${PYTHON:-.venv/bin/python}
tasks=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
if [[ ! $tasks =~ ^[1-9][0-9]{0,5}$ ]]; then
  echo "launch: PROCESSES: expected a number of processes on each node; found '$tasks'" >&2
  exit 2
fi
if [ $# = 0 ]; then
  echo "launch: no flags. Say: sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config configs/cc3m.py" >&2
  exit 2
fi

# A dead process ends the step; --signal above tells this script, five minutes before the time is over, to let it save.
step=(srun --kill-on-bad-exit=1 --ntasks-per-node="$tasks" --ntasks=$((${SLURM_NNODES:-1} * tasks))
  "$python" -m rankclip_jax.train "$@")
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "${step[@]}"
  echo
  exit
fi

# The processes are told by scancel: at a SIGTERM of its own srun kills them. SLURM sends TERM and USR1; at what a person
# sends the run saves too, and is not put back.
heard="" stopped="" requeue="" running=""
# shellcheck disable=SC2329 # the traps call it
tell() {
  heard=yes
  [ -n "$stopped" ] || stopped=$1
  [ -z "$running" ] || scancel --signal=USR1 "$SLURM_JOB_ID"
}
trap 'requeue=yes; tell 143' TERM
trap 'requeue=yes; tell 138' USR1
trap 'tell 129' HUP
trap 'tell 130' INT
trap 'tell 131' QUIT
trap 'tell 140' USR2
trap 'tell 142' ALRM
trap : PIPE
exec {never}<> <(:) # with nothing to read; a `wait` that a signal ends may lose the status

# A secret of this start, by which its processes know each other (rankclip_jax/distributed/rendezvous.py).
RANKCLIP_JAX_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RANKCLIP_JAX_TOKEN
status=$stopped
if [ -z "$stopped" ]; then
  "${step[@]}" &
  running=$!
  [ -z "$stopped" ] || scancel --signal=USR1 "$SLURM_JOB_ID" # a signal came while it was started
  while kill -0 "$running" 2>/dev/null; do read -r -t 1 -u "$never"; done
  while :; do
    heard=""
    wait "$running"
    status=$?
    [ -n "$heard" ] || break
  done
fi
if [ -n "$requeue" ]; then
  echo "launch: told to stop, ended with status $status; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
