#!/usr/bin/env bash
# The batch script that slurm.sh submits. SLURM copies it, so that it can read no other file of this folder.
#
#   slurm_job.sh VENV MAX_REQUEUES [--index-of-trial] -- python -m experiments.NAME OPTIONS
#
# One process a GPU: `srun` starts --ntasks-per-node of them on each node, every one sees all GPUs of its node
# (--gpus-per-node; --gpus-per-task would hide the others from JAX, which takes the GPU of its own local number), and JAX
# learns from SLURM's variables who the others are.
set -euo pipefail

venv="${1:?this is called by slurm.sh}"
max_requeues="${2:?this is called by slurm.sh}"
shift 2
if [[ "$1" == --index-of-trial ]]; then
  # right behind "python -m experiments.ablate", since what follows a later -- belongs to the experiment
  shift 2
  set -- "${@:1:3}" --index "${SLURM_ARRAY_TASK_ID:?}" "${@:4}"
else
  shift
fi
export PATH="${venv}/bin:${PATH}" PYTHONUNBUFFERED=1

# A SIGTERM to this shell comes from `scancel` or from a preemption that ends the job: SLURM decides what follows.
cancelled=no
trap 'cancelled=yes' TERM

# --kill-on-bad-exit=0: a process that ends with 75 before the others must not cut off their saving.
# --wait: when one has ended the others have five minutes; JAX notices a lost peer in less than two.
# --cpus-per-task: since SLURM 22.05 srun does not take it over from sbatch.
srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$@" &
step=$!
while true; do
  before="${cancelled}"
  result=0
  wait "${step}" || result=$?
  if [[ "${cancelled}" == "${before}" ]]; then
    break
  fi
done

# srun ends with the highest code of its processes, so that 75 means: none failed with a higher one.
job="${SLURM_JOB_ID:?}"
if [[ "${result}" != 75 ]]; then
  printf 'slurm_job.sh: the command ended with %s\n' "${result}"
elif [[ "${cancelled}" == yes ]]; then
  printf 'slurm_job.sh: saved; SLURM ended the job, which is not queued again from here\n'
elif ((${SLURM_RESTART_COUNT:-0} >= max_requeues)); then
  printf 'slurm_job.sh: saved; not queued again after %s requeues\n' "${max_requeues}"
elif scontrol requeue "${job}"; then
  printf 'slurm_job.sh: saved; queued again\n'
else
  printf 'slurm_job.sh: saved; not queued again, as SLURM says above\n'
fi
exit "${result}"
