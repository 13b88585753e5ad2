#!/usr/bin/env bash
# Trains under SLURM, and resumes automatically after a time limit or a preemption:
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config configs/cc3m.py --workdir runs/cc3m
# Starts one process per GPU; PROCESSES=1 starts one per node. DRY_RUN=1 prints the command without running it.
# MODULE names another command, such as a study whose runs the jobs of an array share:
#   MODULE=rankclip_jax.study sbatch --array=0-7 --gpus-per-node=1 launch/slurm.sh --config configs/studies/cc3m.py
#SBATCH --job-name=rankclip
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -u

python=${PYTHON:-.venv/bin/python}
tasks=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
if [[ ! $tasks =~ ^[1-9][0-9]{0,5}$ ]]; then
  echo "launch: PROCESSES: expected a number of processes per node; found '$tasks'" >&2
  exit 2
fi
if [ $# = 0 ]; then
  echo "launch: no flags. Use: sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config configs/cc3m.py" >&2
  exit 2
fi

# A dead process ends the step. --signal above notifies this script five minutes before the time limit, so the run can
# save.
step=(srun --kill-on-bad-exit=1 --ntasks-per-node="$tasks" --ntasks=$((${SLURM_NNODES:-1} * tasks))
  "$python" -m "${MODULE:-rankclip_jax.train}" "$@")
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "${step[@]}"
  echo
  exit
fi

# scancel forwards the signal, because srun kills the processes if it gets SIGTERM itself. SLURM sends TERM and USR1,
# after which the job is requeued. After other signals, sent by a user, the run saves and is not requeued.
heard="" stopped="" requeue="" running=""
# shellcheck disable=SC2329 # called by the traps
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
exec {never}<> <(:) # a descriptor without data; an interrupted `wait` may lose the status

# A random secret by which the processes of this start authenticate (rankclip_jax/distributed/rendezvous.py).
RANKCLIP_JAX_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RANKCLIP_JAX_TOKEN
status=$stopped
if [ -z "$stopped" ]; then
  "${step[@]}" &
  running=$!
  [ -z "$stopped" ] || scancel --signal=USR1 "$SLURM_JOB_ID" # a signal arrived during the start
  while kill -0 "$running" 2>/dev/null; do read -r -t 1 -u "$never"; done
  while :; do
    heard=""
    wait "$running"
    status=$?
    [ -n "$heard" ] || break
  done
fi
if [ -n "$requeue" ]; then
  echo "launch: stopped by a signal, exit status $status; requeueing the job"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
