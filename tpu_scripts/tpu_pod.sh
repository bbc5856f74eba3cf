#!/usr/bin/env bash
# Run an experiment on a Cloud TPU: one host, a pod, or several pods (slices), by queued resources.
#
#   tpu_scripts/tpu_pod.sh run --name NAME --zone ZONE --type TYPE --bucket BUCKET [OPTIONS] -- python -m experiments.X ...
#       Create the TPU, set it up, start the command on all workers and watch it. A TPU that is taken away is deleted,
#       created anew, and the same command, which resumes, is run again, until it ends with 0. A command that fails on
#       a healthy machine ends this with the command's exit code and the end of its log. Called again while the command
#       runs, it goes on watching. Ctrl-C ends the watching, not the command, and says what still exists.
#
# and the same in single steps:
#
#   tpu_pod.sh create  --name --zone --type        request the TPU and wait until it is there
#   tpu_pod.sh setup   --name --zone --bucket      put the code, its environment and the bucket on all workers
#   tpu_pod.sh launch  --name --zone --bucket -- python -m experiments.X ...     start it in the background
#   tpu_pod.sh status  --name --zone               what exists, and what the command does on each worker
#   tpu_pod.sh follow  --name --zone               the log of worker 0, as it grows; Ctrl-C only stops following
#   tpu_pod.sh fetch   --bucket [--from runs/X] [--to FOLDER] [--without-checkpoints]     copy results here, default: to runs/from-BUCKET
#   tpu_pod.sh stop    --name --zone               the command saves and ends with 75; the TPU stays, and is billed
#   tpu_pod.sh delete  --name --zone               delete the TPU; results stay in the bucket
#
# Results: the folder runs/ of the code is runs/ of the bucket (mounted by gcsfuse), so that commands need no option
# for it. Logs are copied to logs/NAME/ there when a command ends. In commands, data in the bucket is ../bucket/PATH.
#
# The TPU
#   --name NAME              of the TPU, 2 to 40 lower-case letters, digits and hyphens
#   --zone ZONE              such as us-central2-b
#   --project PROJECT        default: that of `gcloud config`
#   --type TYPE              accelerator type, such as v4-8, v5litepod-16, v5p-128, v6e-8
#   --runtime-version V      default: the one for JAX on that type
#   --spot | --reserved      preemptible, or from a reservation; default: on demand
#   --slices N               so many TPUs of that type, joined over the network (multi-slice); give it to every command
#   --create-option OPTION   passed to `gcloud ... queued-resources create`, such as --network=NAME; may be repeated
#   --ssh-option OPTION      passed to `gcloud ... tpu-vm ssh` and `scp`, such as --internal-ip; may be repeated
# The code: this checkout with its uncommitted changes, or
#   --checkout FOLDER        another checkout
#   --git URL --commit HASH  a commit of a repository that the TPU can clone
# Where results go
#   --bucket BUCKET          without gs://; it must have a hierarchical namespace
# Watching (run)
#   --poll-seconds N         between two looks (60)
#   --settle-seconds N       between the end of a command and the second look that tells whether the machine is healthy (90)
#   --max-restarts N         give up after N restarts in a row without a new checkpoint (10)
#   --max-failures N         give up after N failed calls of gcloud in a row while the TPU exists (30)
#   --delete-on-success      delete the TPU when the command has ended with 0
#   --delete-on-exit         delete the TPU however this ends, also by Ctrl-C
#
# Options that a command has no use for are accepted, so that one set of options serves all commands.
# DRY_RUN=1 prints the commands that would be run, shell-quoted, and runs none.
# Exit codes of run: that of the command; 75: it was stopped by `stop`; 1: the cloud failed; 2: wrong options.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=command_line.sh
source "${here}/command_line.sh"
# shellcheck source-path=SCRIPTDIR source=tpu_machine.sh
source "${here}/tpu_machine.sh"
# shellcheck source-path=SCRIPTDIR source=tpu_supervise.sh
source "${here}/tpu_supervise.sh"

name="" zone="" project="" type="" runtime_version="" slices=1 tier="" bucket=""
checkout="${here%/*}" url="" commit=""
create_options=() ssh_options=() program=()
poll_seconds=60 settle_seconds=90 max_restarts=10 max_failures=30 delete_on=never
from=runs to="" exclude=()

subcommand="${1:---help}"
case "${subcommand}" in
  run | create | setup | launch | status | follow | fetch | stop | delete) shift ;;
  -h | --help)
    usage_of "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) fail "there is no command ${subcommand}: run, create, setup, launch, status, follow, fetch, stop, delete" ;;
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
    --spot | --reserved)
      if [[ -n "${tier}" && "${tier}" != "$1" ]]; then
        fail "--spot and --reserved exclude each other"
      fi
      tier="$1"
      ;;
    --delete-on-success)
      if [[ "${delete_on}" == never ]]; then
        delete_on=success
      fi
      ;;
    --delete-on-exit) delete_on=any-end ;;
    --without-checkpoints) exclude=("--exclude=(^|.*/)checkpoints/.*") ;;
    --*)
      need_value "$@"
      case "$1" in
        --name) name="$2" ;;
        --zone) zone="$2" ;;
        --project) project="$2" ;;
        --type) type="$2" ;;
        --runtime-version) runtime_version="$2" ;;
        --slices) slices="$2" ;;
        --bucket) bucket="$2" ;;
        --checkout) checkout="$2" ;;
        --git) url="$2" ;;
        --commit) commit="$2" ;;
        --create-option) create_options+=("$2") ;;
        --ssh-option) ssh_options+=("$2") ;;
        --poll-seconds) poll_seconds="$2" ;;
        --settle-seconds) settle_seconds="$2" ;;
        --max-restarts) max_restarts="$2" ;;
        --max-failures) max_failures="$2" ;;
        --from) from="$2" ;;
        --to) to="$2" ;;
        *) fail "there is no option $1: --help lists the options" ;;
      esac
      shift
      ;;
    *) fail "'$1' is no option; the experiment's command comes after --" ;;
  esac
  shift
done

need gcloud "see https://cloud.google.com/sdk/docs/install"
need_number --slices "${slices}" 1
need_number --poll-seconds "${poll_seconds}" 0
need_number --settle-seconds "${settle_seconds}" 0
need_number --max-restarts "${max_restarts}" 0
need_number --max-failures "${max_failures}" 0
where=()
if [[ -n "${project}" ]]; then
  where+=("--project=${project}")
fi
if [[ "${subcommand}" != fetch ]]; then
  need_option --name "${name}"
  need_option --zone "${zone}"
  if [[ ! "${name}" =~ ^[a-z][a-z0-9-]{0,38}[a-z0-9]$ ]]; then
    fail "--name takes 2 to 40 lower-case letters, digits and hyphens, beginning with a letter, not '${name}'"
  fi
  if [[ ! "${zone}" =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]]; then
    fail "--zone takes a zone such as us-central2-b, not '${zone}'"
  fi
  where+=("--zone=${zone}")
fi
case "${subcommand}" in
  run | setup | launch | fetch)
    need_option --bucket "${bucket}"
    if [[ ! "${bucket}" =~ ^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$ ]]; then
      fail "--bucket takes the name of a bucket, without gs:// and without a path, not '${bucket}'"
    fi
    ;;
  *) ;;
esac
case "${subcommand}" in
  run | create) check_type ;;
  *) ;;
esac
case "${subcommand}" in
  run | setup) check_source ;;
  *) ;;
esac
case "${subcommand}" in
  run | launch)
    if [[ "${program[0]:-}" != python || "${program[1]:-}" != -m || -z "${program[2]:-}" ]]; then
      fail "after -- comes the command: python -m experiments.NAME OPTIONS"
    fi
    ;;
  *)
    if ((${#program[@]} > 0)); then
      fail "${subcommand} takes no command after --"
    fi
    ;;
esac
name_nodes
make_scratch

case "${subcommand}" in
  run) supervise ;;
  create)
    if [[ "${dry}" == no ]]; then
      delete_on=never
      leave_by_message
    fi
    create_request
    if ((status != 0)); then
      fail "${refused}" 1
    fi
    await_active
    if [[ "${dry}" == no && "${request}" != ACTIVE ]]; then
      fail "${name} became ${request} instead of ACTIVE: ${request_details}" 1
    fi
    ;;
  setup)
    check_bucket
    pack_code
    set_up_workers
    if ((status != 0)); then
      fail "${problem}" 1
    fi
    ;;
  launch)
    launch_workers
    if ((status != 0)); then
      fail "${problem}" 1
    fi
    ;;
  status) show_status ;;
  follow) execute "${ssh[@]}" "${nodes[0]}" "${where[@]}" "${ssh_flags[@]}" --worker=0 --command='tail -n 100 -F vision-run/log' ;;
  stop)
    on_workers "bash tpu_vm_worker.sh stop"
    printf '%s' "${answers}"
    if ((status != 0)); then
      fail "not all workers could be asked: ${problem}" 1
    fi
    if [[ "${dry}" == no ]]; then
      say "the TPU stays, and is billed until: ${delete_command}"
    fi
    ;;
  fetch)
    from="${from%/}"
    to="${to:-runs/from-${bucket}/${from#runs}}"
    execute mkdir -p "${to}"
    execute gcloud storage rsync --recursive "${where[@]}" "${exclude[@]}" "gs://${bucket}/${from}" "${to}"
    ;;
  delete)
    delete_request
    if [[ "${request}" != ABSENT && "${dry}" == no ]]; then
      fail "${name} could not be deleted (${problem}): ${delete_command}" 1
    fi
    ;;
  *) fail "there is no command ${subcommand}" ;;
esac
if ((status != 0)); then
  fail "the last command ended with ${status}" 1
fi
