#!/usr/bin/env bash
# Run an experiment on GPUs of a SLURM cluster: one process a GPU, continued over as many jobs as it takes.
#
#   tpu_scripts/slurm.sh submit --nodes 2 --gpus-per-node 8 --time 4:00:00 --venv FOLDER [OPTIONS] -- python -m experiments.X ...
#       Submit one job. Before its time is over the command is asked to save (SIGTERM), ends with 75, and the job is put
#       into the queue again, where the same command resumes; likewise when the job is preempted or a node dies. Any other
#       exit code but 0 ends the job as failed. The job's number is printed.
#   tpu_scripts/slurm.sh array --trials 12 [--at-once 4] ... -- python -m experiments.ablate X ...
#       Submit a job array of the trials 1 to 12 that the command with --list names, one process with all GPUs of a node
#       for each: "--index NUMBER" is added to the command. Each trial is continued by itself.
#   slurm.sh status JOB     what the job does
#   slurm.sh follow JOB     its log, as it grows; Ctrl-C only stops following
#   slurm.sh stop JOB       the command saves, and the job ends without being queued again
#   slurm.sh cancel JOB     end the job at once: what was computed since the last checkpoint is lost
# JOB is what submit and array print; one trial of an array is JOB_NUMBER.
#
#   --venv FOLDER            the virtual environment that has the project, on a disk that the nodes see
#   --nodes N                (1)
#   --gpus-per-node N        (1) and processes on each node; in an array, GPUs of a trial
#   --cpus-per-gpu N         (4)
#   --time LIMIT             of one job, as sbatch takes it; default: that of the partition
#   --partition P --account A    as sbatch takes them; default: those of the cluster
#   --name NAME              of the job; default: the experiment's
#   --checkout FOLDER        where the command runs, and runs/ is; default: this checkout
#   --logs FOLDER            where logs go (CHECKOUT/runs/slurm_logs)
#   --save-seconds N         so long before the end of its time the command is asked to save (120)
#   --max-requeues N         give up after N requeues (100)
#   --sbatch-option OPTION   passed to sbatch, such as --mem=200G or --qos=long; may be repeated
#
# DRY_RUN=1 prints the commands that would be run, shell-quoted, and runs none.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=command_line.sh
source "${here}/command_line.sh"

nodes=1 gpus=1 cpus=4 venv="" name="" checkout="${here%/*}" logs="" save_seconds=120 max_requeues=100
trials="" at_once="" job="" options=() program=()

subcommand="${1:---help}"
case "${subcommand}" in
  submit | array) shift ;;
  status | follow | stop | cancel)
    shift
    job="${1:-}"
    if [[ ! "${job}" =~ ^[0-9]+(_[0-9]+)?$ ]]; then
      fail "${subcommand} takes the number of a job, such as 1234 or 1234_5, not '${job}'"
    fi
    shift
    ;;
  -h | --help)
    usage_of "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) fail "there is no command ${subcommand}: submit, array, status, follow, stop, cancel" ;;
esac
while (($# > 0)); do
  case "$1" in
    --)
      shift
      program=("$@")
      break
      ;;
    -h | --help)
      usage_of "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --*)
      need_value "$@"
      case "$1" in
        --venv) venv="$2" ;;
        --nodes) nodes="$2" ;;
        --gpus-per-node) gpus="$2" ;;
        --cpus-per-gpu) cpus="$2" ;;
        --time | --partition | --account) options+=("$1=$2") ;;
        --name) name="$2" ;;
        --checkout) checkout="$2" ;;
        --logs) logs="$2" ;;
        --save-seconds) save_seconds="$2" ;;
        --max-requeues) max_requeues="$2" ;;
        --trials) trials="$2" ;;
        --at-once) at_once="$2" ;;
        --sbatch-option) options+=("$2") ;;
        *) fail "there is no option $1: --help lists the options" ;;
      esac
      shift
      ;;
    *) fail "'$1' is no option; the experiment's command comes after --" ;;
  esac
  shift
done

# submit: call sbatch; the number of the job is printed.
submit() {
  local pattern=%x-%j.log array=() tail=() processes="${gpus}"
  need_option --venv "${venv}"
  need_number --nodes "${nodes}" 1
  need_number --gpus-per-node "${gpus}" 1
  need_number --cpus-per-gpu "${cpus}" 1
  need_number --save-seconds "${save_seconds}" 1
  need_number --max-requeues "${max_requeues}" 0
  if [[ "${program[0]:-}" != python || "${program[1]:-}" != -m || -z "${program[2]:-}" ]]; then
    fail "after -- comes the command: python -m experiments.NAME OPTIONS"
  fi
  if [[ "${dry}" == no && ! -x "${venv}/bin/python" ]]; then
    fail "${venv} is no virtual environment: it has no bin/python"
  fi
  if [[ "${subcommand}" == array ]]; then
    need_option --trials "${trials}"
    need_number --trials "${trials}" 1
    if [[ "${program[2]}" != experiments.ablate ]]; then
      fail "an array runs trials of experiments.ablate, not ${program[2]}: submit runs one experiment"
    elif ((nodes > 1)); then
      fail "a trial of an array runs on one node: leave --nodes out"
    fi
    processes=1
    cpus=$((cpus * gpus))
    array=("--array=1-${trials}")
    if [[ -n "${at_once}" ]]; then
      need_number --at-once "${at_once}" 1
      array=("${array[0]}%${at_once}")
    fi
    pattern=%x-%A_%a.log
    tail=(--index-of-trial)
  elif [[ -n "${trials}${at_once}" ]]; then
    fail "--trials and --at-once belong to the command array"
  fi
  logs="${logs:-${checkout}/runs/slurm_logs}"
  execute mkdir -p "${logs}"
  # --signal without "B:" reaches the processes that srun started, and not the batch script. srun itself must not get
  # a SIGTERM: it answers by killing them. --open-mode keeps one log over all requeues.
  capture sbatch --parsable --job-name="${name:-${program[2]#experiments.}}" --nodes="${nodes}" --gpus-per-node="${gpus}" \
    --ntasks-per-node="${processes}" --cpus-per-task="${cpus}" --requeue --signal="TERM@${save_seconds}" \
    --open-mode=append --output="${logs}/${pattern}" --chdir="${checkout}" "${array[@]}" "${options[@]}" \
    "${here}/slurm_job.sh" "${venv}" "${max_requeues}" "${tail[@]}" -- "${program[@]}"
  if ((status != 0)); then
    fail "sbatch refused the job, and says above why" 1
  fi
  if [[ "${dry}" == no ]]; then
    printf '%s\n' "${output%%;*}"
  fi
}

# follow: the log of a job. Where it lies, SLURM knows.
follow() {
  local file
  capture scontrol show job "${job}"
  if [[ "${dry}" == yes ]]; then
    file="${logs:-${checkout}/runs/slurm_logs}/NAME-${job}.log"
  else
    file="$(sed -n 's/^ *StdOut=//p' <<<"${output}" | head -n 1)"
    if [[ -z "${file}" ]]; then
      fail "SLURM knows no job ${job} any more: look into the folder given with --logs" 1
    fi
  fi
  execute tail -n 100 -F "${file}"
}

for client in sbatch squeue scontrol scancel; do
  need "${client}" "run this on a login node of a SLURM cluster"
done
case "${subcommand}" in
  submit | array) submit ;;
  status) execute squeue --jobs="${job}" --states=all "--format=%i %j %T %M %l %r" ;;
  follow) follow ;;
  stop)
    # With Requeue=0 SLURM refuses to queue the job again; the signal goes to the processes that srun started.
    execute scontrol update "JobId=${job}" Requeue=0
    if ((status == 0)); then
      execute scancel --signal=TERM "${job}"
    fi
    ;;
  cancel) execute scancel "${job}" ;;
  *) fail "there is no command ${subcommand}" ;;
esac
if ((status != 0)); then
  fail "SLURM refused, and says above why" 1
fi
