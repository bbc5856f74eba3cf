#!/usr/bin/env bash
# Run an experiment on TPUs or GPUs of a GKE cluster, as a JobSet.
#
#   tpu_scripts/gke.sh create --name NAME --image IMAGE --bucket BUCKET --service-account S \
#       --tpu tpu-v5-lite-podslice --topology 4x4 [OPTIONS] -- python -m experiments.X ...
#   tpu_scripts/gke.sh create ... --gpu nvidia-h100-80gb --nodes 2 --gpus-per-node 8 [OPTIONS] -- python -m experiments.X ...
#       A command that is interrupted (exit code 75, an evicted pod, a preempted node) is started again, all pods of it, and
#       resumes; any other failure ends the JobSet.
#   gke.sh render  the same options    print the manifest that create would send
#   gke.sh status  --name NAME         the JobSet and its pods
#   gke.sh follow  --name NAME         the log of the first process, as it grows; Ctrl-C only stops following
#   gke.sh stop    --name NAME         the command saves and ends; the pods go, the JobSet stays, suspended
#   gke.sh resume  --name NAME         start the command of a stopped JobSet again
#   gke.sh delete  --name NAME         delete the JobSet and its pods; results stay in the bucket
#
# Results: the folder runs/ of the code is runs/ of the bucket (`tpu_pod.sh fetch --bucket BUCKET` copies them here). In
# commands, data in the bucket is ../bucket/PATH.
#
#   --name NAME              up to 40 lower-case letters, digits and hyphens
#   --namespace N            (default)
#   --context C              of kubectl; default: the current one
#   --image IMAGE            made from tpu_scripts/Dockerfile
#   --bucket BUCKET          without gs://; it must have a hierarchical namespace
#   --service-account S      of Kubernetes, which may write to the bucket
#   --tpu TYPE --topology T  as the node pool's labels gke-tpu-accelerator and gke-tpu-topology
#   --chips-per-host N       (4)
#   --slices N               N node pools of that kind, joined over the network (1)
#   --gpu TYPE               as the node pool's label gke-accelerator
#   --nodes N                (1)
#   --gpus-per-node N        (1)
#   --spot                   only on Spot VMs, which give pods 15 s to save, unless the node pool is configured otherwise
#   --save-seconds N         how long a pod that is asked to end may take to save (300)
#   --max-restarts N         start again after N failures that are no interruptions, too (0)
#
# DRY_RUN=1 prints the commands that would be run, shell-quoted, and runs none; create renders the manifest all the same,
# so that wrong options are reported.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=command_line.sh
source "${here}/command_line.sh"

subcommand="${1:---help}"
case "${subcommand}" in
  create | render | status | follow | stop | resume | delete) shift ;;
  -h | --help)
    usage_of "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) fail "there is no command ${subcommand}: create, render, status, follow, stop, resume, delete" ;;
esac
name="" namespace=default cluster=() rendered=()
while (($# > 0)); do
  case "$1" in
    --)
      rendered+=("$@")
      break
      ;;
    -h | --help)
      usage_of "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --spot)
      rendered+=("$1")
      shift
      ;;
    --*)
      need_value "$@"
      case "$1" in
        --context) cluster+=("--context=$2") ;;
        --name | --namespace)
          rendered+=("$1" "$2")
          if [[ "$1" == --name ]]; then
            name="$2"
          else
            namespace="$2"
          fi
          ;;
        *) rendered+=("$1" "$2") ;;
      esac
      shift 2
      ;;
    *) fail "'$1' is no option; the experiment's command comes after --" ;;
  esac
done
need_option --name "${name}"
kubectl=(kubectl "${cluster[@]}" "--namespace=${namespace}")
pods="jobset.sigs.k8s.io/jobset-name=${name}"
render=(python3 "${here}/gke_render.py" "${rendered[@]}")

# create: send the manifest, unless a JobSet of that name is there.
create() {
  local manifest line
  # a wrong option is reported before the cluster is contacted
  manifest="$("${render[@]}")" || exit $?
  if [[ "${dry}" == yes ]]; then
    execute "${kubectl[@]}" get jobset "${name}" --ignore-not-found --output=name
    quote "${render[@]}"
    line="${quoted}"
    quote "${kubectl[@]}" apply --filename=-
    printf '%s | %s\n' "${line}" "${quoted}"
    return
  fi
  capture "${kubectl[@]}" get jobset "${name}" --ignore-not-found --output=name
  if ((status != 0)); then
    fail "the cluster could not be asked, kubectl says above why" 1
  elif [[ -n "${output}" ]]; then
    fail "there is a JobSet ${name} already, running or ended: delete it first (gke.sh delete), or choose another --name" 1
  fi
  execute "${kubectl[@]}" apply --filename=- <<<"${manifest}"
}

if [[ "${subcommand}" != render ]]; then
  need kubectl "see https://kubernetes.io/docs/tasks/tools"
fi
case "${subcommand}" in
  render) exec "${render[@]}" ;;
  create) create ;;
  status)
    execute "${kubectl[@]}" get jobset "${name}"
    if ((status == 0)); then
      execute "${kubectl[@]}" get pods --selector="${pods}" --output=wide
    fi
    ;;
  follow)
    execute "${kubectl[@]}" logs --follow --tail=100 --container=experiment \
      --selector="${pods},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  stop) execute "${kubectl[@]}" patch jobset "${name}" --type=merge '--patch={"spec":{"suspend":true}}' ;;
  resume) execute "${kubectl[@]}" patch jobset "${name}" --type=merge '--patch={"spec":{"suspend":false}}' ;;
  delete) execute "${kubectl[@]}" delete "jobset/${name}" "role/${name}" "rolebinding/${name}" --ignore-not-found ;;
  *) fail "there is no command ${subcommand}" ;;
esac
if ((status != 0)); then
  fail "kubectl failed, and says above why" 1
fi
