#!/usr/bin/env bash
# Stands in, in tests, for the python of a virtual environment, under SLURM: a process writes down its arguments and runs
# the script $SLURM_STATE/plan/N of the job's N-th start, which may use the functions below.
set -euo pipefail
: "${SLURM_STATE:?}" "${SLURM_JOB_ID:?}" "${SLURM_PROCID:?}" "${SLURM_NTASKS:?}"

# until_asked: train until SIGTERM, then save, slowly, and leave as an experiment does.
until_asked() {
  trap 'sleep 0.2; touch "${SLURM_STATE}/saved-${SLURM_PROCID}"; exit 75' TERM
  touch "${SLURM_STATE}/listening-${number}.${SLURM_PROCID}"
  while true; do
    sleep 0.05
    "$@"
  done
}

# near_the_end: as soon as all processes train, the end of the job's time comes near.
near_the_end() {
  local listening=("${SLURM_STATE}/listening-${number}."*)
  if ((SLURM_PROCID == 0 && ${#listening[@]} == SLURM_NTASKS)) && [[ ! -e "${SLURM_STATE}/near-${number}" ]]; then
    touch "${SLURM_STATE}/near-${number}" "${SLURM_STATE}/timelimit-${SLURM_JOB_ID}"
  fi
}

number=$((${SLURM_RESTART_COUNT:-0} + 1))
printf '%s\0' "$@" >"${SLURM_STATE}/starts/${SLURM_JOB_ID}.${number}.${SLURM_PROCID}"
printf 'start %s of process %s\n' "${number}" "${SLURM_PROCID}"
# shellcheck source=/dev/null  # the test writes it
source "${SLURM_STATE}/plan/${number}"
