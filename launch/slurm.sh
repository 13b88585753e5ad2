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
case $tasks in
*[!0-9]* | 0*)
  echo "launch: PROCESSES: expected a number of processes on each node; found '$tasks'" >&2
  exit 2
  ;;
esac
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

"${step[@]}" &
running=$! stopped=
# The processes are told by scancel: at a SIGTERM of its own srun kills them.
trap 'stopped=yes; scancel --signal=USR1 "$SLURM_JOB_ID"' TERM USR1
wait $running
status=$?
if [ -n "$stopped" ]; then
  while kill -0 $running 2>/dev/null; do # the wait ended with a signal, not with the step
    wait $running
    status=$?
  done
  echo "launch: told to stop, ended with status $status; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
