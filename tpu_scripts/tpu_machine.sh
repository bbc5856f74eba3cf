# shellcheck shell=bash
# The calls of gcloud that create, ask, reach and delete a TPU. Sourced by tpu_pod.sh, whose options it uses.

# request: state of the queued resource, ABSENT if there is none, UNKNOWN if it could not be asked.
# initiator: who brought it into that state: USER for a deletion, SERVICE for a preemption.
request=""
initiator=""
request_details=""
# machine: healthy, unwell (repaired, in maintenance), lost (taken away), or unknown.
machine=""
# nodes: the TPUs of the request; ssh, scp and their flags: the beginning of each call.
nodes=()
ssh=(gcloud compute tpus tpu-vm ssh)
scp=(gcloud compute tpus tpu-vm scp)
# A dead machine is noticed within minutes; ssh alone may wait for hours.
ssh_flags=(--quiet --ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4)
scp_flags=(--quiet --scp-flag=-oConnectTimeout=20 --scp-flag=-oServerAliveInterval=15 --scp-flag=-oServerAliveCountMax=4)
# answers: what the workers printed; problem: why a call failed, in one line.
answers=""
problem=""
# scratch: a temporary folder.
scratch=""
delete_command=""
code_options=()

# calls: processes in the background, which outlive Ctrl-C unless they are ended.
calls=()

# pause SECONDS: sleep so that a signal is handled at once.
pause() {
  sleep "$1" &
  calls=("$!")
  wait "$!"
  calls=()
}

# check_type: stop unless --type can be an accelerator type; choose the runtime version for it.
check_type() {
  local generation="${type%%-*}"
  need_option --type "${type}"
  if [[ "${type}" =~ ^v5e-([0-9]+)$ ]]; then
    fail "the accelerator type of v5e is v5litepod-${BASH_REMATCH[1]}, not ${type}"
  fi
  if [[ ! "${type}" =~ ^[a-z0-9]+-[0-9]+$ ]]; then
    fail "--type takes an accelerator type such as v4-8, v5litepod-16, v5p-128 or v6e-8, not '${type}'"
  fi
  if [[ -z "${runtime_version}" ]]; then
    case "${generation}" in
      v2 | v3 | v4) runtime_version=tpu-ubuntu2204-base ;;
      v5litepod) runtime_version=v2-alpha-tpuv5-lite ;;
      v5p) runtime_version=v2-alpha-tpuv5 ;;
      v6e) runtime_version=v2-alpha-tpuv6e ;;
      *) fail "the runtime version for ${type} is not known here: give it with --runtime-version" ;;
    esac
  fi
}

# check_source: stop unless there is code to put on the workers.
check_source() {
  if [[ -n "${url}" || -n "${commit}" ]]; then
    need_option --git "${url}"
    need_option --commit "${commit}"
    code_options=(--git "${url}" --commit "${commit}")
  elif [[ ! -e "${checkout}/.git" || ! -e "${checkout}/pyproject.toml" ]]; then
    fail "${checkout} is no git checkout of this project: give --checkout FOLDER, or --git URL --commit HASH"
  else
    checkout="$(cd "${checkout}" && pwd -P)"
  fi
}

# check_bucket: stop unless folders of the bucket can be renamed at once, by which a checkpoint becomes whole.
check_bucket() {
  capture gcloud storage buckets describe "gs://${bucket}" --raw "--format=value(hierarchicalNamespace.enabled)"
  if [[ "${dry}" == yes ]]; then
    return
  elif ((status != 0)); then
    fail "the bucket gs://${bucket} cannot be read: create it, or see what gcloud says above" 1
  elif [[ "${output,,}" != true ]]; then
    fail "gs://${bucket} has no hierarchical namespace, without which checkpoints are not written at once: see README.md" 1
  fi
}

# name_nodes: the names that the request gives its TPUs, and the line that deletes them.
name_nodes() {
  local index
  if ((slices == 1)); then
    nodes=("${name}")
  else
    for ((index = 0; index < slices; index++)); do
      nodes+=("${name}-${index}")
    done
  fi
  ssh_flags+=("${ssh_options[@]}")
  scp_flags+=("${ssh_options[@]}")
  quote gcloud compute tpus queued-resources delete "${name}" "${where[@]}" --force --quiet
  delete_command="${quoted}"
}

# make_scratch: a temporary folder, removed at the end.
make_scratch() {
  if [[ "${dry}" == yes ]]; then
    scratch="${TMPDIR:-/tmp}/tpu_pod.XXXXXX"
  else
    scratch="$(mktemp -d "${TMPDIR:-/tmp}/tpu_pod.XXXXXX")"
    trap 'rm -rf "${scratch}"' EXIT
  fi
}

# read_problem FILE...: why a call failed, from what was said on standard error: the worker's own sentence if it has one.
read_problem() {
  local lines
  lines="$(grep -h '^error: ' "$@" || grep -hv 'Attempting to connect' "$@" | tail -n 8 || true)"
  lines="${lines//$'\n'/ }"
  problem="${lines#error: }"
}

# create_request: ask for the TPU, which is granted later; $status is not 0 if the request is $refused.
refused=""
create_request() {
  local which=(--node-id="${name}") wanted=()
  if ((slices > 1)); then
    which=(--node-count="${slices}" --node-prefix="${name}")
  fi
  if [[ -n "${tier}" ]]; then
    wanted=("${tier}")
  fi
  if [[ "${dry}" == no ]]; then
    say "requesting ${name}: ${slices} x ${type} in ${zone}"
  fi
  execute gcloud compute tpus queued-resources create "${name}" "${where[@]}" --accelerator-type="${type}" \
    --runtime-version="${runtime_version}" "${which[@]}" "${wanted[@]}" --async --quiet "${create_options[@]}"
  refused="${name} was refused, gcloud says above why; types of the zone: gcloud compute tpus accelerator-types list --zone=${zone}"
}

# read_request: the state of the request.
read_request() {
  local answer errors="${scratch}/request.err" format="--format=value(state.state,state.stateInitiator)"
  request_details=""
  initiator=""
  if [[ "${dry}" == yes ]]; then
    execute gcloud compute tpus queued-resources describe "${name}" "${where[@]}" "${format}"
  elif answer="$(gcloud compute tpus queued-resources describe "${name}" "${where[@]}" "${format}" 2>"${errors}")"; then
    read -r request initiator <<<"${answer}"
    request="${request:-UNKNOWN}"
    if [[ "${request}" == FAILED ]]; then
      request_details="$(gcloud compute tpus queued-resources describe "${name}" "${where[@]}" "--format=value(state)" || true)"
    fi
  elif grep -q NOT_FOUND "${errors}"; then
    request=ABSENT
  else
    request=UNKNOWN
    read_problem "${errors}"
  fi
}

# await_active: wait as long as the request is in the queue or being provisioned; its state is in $request.
await_active() {
  local before="" failures=0
  while true; do
    comment "until it says ACTIVE, every ${poll_seconds} s"
    read_request
    if [[ "${dry}" == yes ]]; then
      return
    fi
    if [[ "${request}" != "${before}" ]]; then
      say "${name} is ${request}"
      before="${request}"
    fi
    case "${request}" in
      CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) failures=0 ;;
      UNKNOWN)
        failures=$((failures + 1))
        if ((failures > max_failures)); then
          fail "the state of ${name} cannot be asked: ${problem}" 1
        fi
        ;;
      *) return ;;
    esac
    pause "${poll_seconds}"
  done
}

# read_machine: what became of the TPUs of a request that is ACTIVE.
read_machine() {
  local node node_state errors="${scratch}/machine.err"
  machine=healthy
  for node in "${nodes[@]}"; do
    if [[ "${dry}" == yes ]]; then
      execute gcloud compute tpus tpu-vm describe "${node}" "${where[@]}" "--format=value(state,health)"
    elif node_state="$(gcloud compute tpus tpu-vm describe "${node}" "${where[@]}" "--format=value(state,health)" 2>"${errors}")"; then
      case "${node_state}" in
        READY*UNHEALTHY_MAINTENANCE*) machine=unwell ;;
        READY*) ;;
        PREEMPTED* | TERMINATED* | STOPPED* | STOPPING* | DELETING*)
          machine=lost
          return
          ;;
        *) machine=unwell ;;
      esac
    elif grep -q NOT_FOUND "${errors}"; then
      machine=lost
      return
    else
      read_problem "${errors}"
      machine=unknown
    fi
  done
}

# delete_request: delete the TPU whatever its state, and wait until it is gone: $request is ABSENT then.
delete_request() {
  local tries between=$((poll_seconds < 2 ? poll_seconds : 2))
  for ((tries = 0; tries < 5; tries++)); do
    execute gcloud compute tpus queued-resources delete "${name}" "${where[@]}" --force --quiet
    comment "until it is not found"
    read_request
    if [[ "${dry}" == yes ]]; then
      return
    fi
    while [[ "${request}" == DELETING || "${request}" == SUSPENDING ]]; do
      pause "${between}"
      read_request
    done
    if [[ "${request}" == ABSENT ]]; then
      status=0
      say "${name} is deleted"
      return
    fi
    say "${name} is ${request} after its deletion; trying again"
    pause "${between}"
  done
  problem="it is ${request}"
}

# on_workers COMMAND: run it on all workers of all slices at once. What they print is in $answers; $status is 0 only if
# all workers were reached and all ended with 0, else $problem says why.
on_workers() {
  local index unreached=()
  answers=""
  status=0
  calls=()
  for index in "${!nodes[@]}"; do
    if [[ "${dry}" == yes ]]; then
      execute "${ssh[@]}" "${nodes[index]}" "${where[@]}" "${ssh_flags[@]}" --worker=all --command="$1"
    else
      "${ssh[@]}" "${nodes[index]}" "${where[@]}" "${ssh_flags[@]}" --worker=all --command="$1" \
        >"${scratch}/${index}.out" 2>"${scratch}/${index}.err" </dev/null &
      calls+=("$!")
    fi
  done
  for index in "${!calls[@]}"; do
    wait "${calls[index]}" || {
      status=$?
      unreached+=("${scratch}/${index}.err")
    }
    answers+="$(<"${scratch}/${index}.out")"$'\n'
  done
  calls=()
  if ((status != 0)); then
    read_problem "${unreached[@]}"
  fi
}

# to_workers FILE...: copy files to the home folder of all workers of all slices at once.
to_workers() {
  local index unreached=()
  status=0
  calls=()
  for index in "${!nodes[@]}"; do
    if [[ "${dry}" == yes ]]; then
      execute "${scp[@]}" "$@" "${nodes[index]}:" "${where[@]}" "${scp_flags[@]}" --worker=all
    else
      "${scp[@]}" "$@" "${nodes[index]}:" "${where[@]}" "${scp_flags[@]}" --worker=all \
        >"${scratch}/${index}.out" 2>"${scratch}/${index}.err" </dev/null &
      calls+=("$!")
    fi
  done
  for index in "${!calls[@]}"; do
    wait "${calls[index]}" || {
      status=$?
      unreached+=("${scratch}/${index}.err")
    }
  done
  calls=()
  if ((status != 0)); then
    read_problem "${unreached[@]}"
  fi
}

# list_files: the checkout's files that git tracks or does not ignore, and that exist, separated by NUL.
list_files() {
  local file
  git -C "${checkout}" ls-files -z --cached --others --exclude-standard >"${scratch}/known"
  while IFS= read -r -d '' file; do
    if [[ -e "${checkout}/${file}" || -L "${checkout}/${file}" ]]; then
      printf '%s\0' "${file}"
    fi
  done <"${scratch}/known" >"${scratch}/files"
}

# pack_code: the checkout as it is now, with the history's last commit, so that a run's environment.json names it.
pack_code() {
  if [[ -n "${url}" ]]; then
    return
  fi
  comment "${scratch}/files: what git tracks or does not ignore, separated by NUL"
  execute git clone --quiet --no-checkout --depth 1 "file://${checkout}" "${scratch}/code"
  if ((status == 0)); then
    execute git -C "${scratch}/code" reset --quiet
  fi
  if ((status == 0)); then
    if [[ "${dry}" == no ]]; then
      list_files
    fi
    execute tar -czf "${scratch}/checkout.tar.gz" -C "${scratch}/code" .git -C "${checkout}" --null --files-from="${scratch}/files"
  fi
  if ((status != 0)); then
    fail "the checkout ${checkout} could not be packed" 1
  fi
}

# set_up_workers: code, environment and bucket, on all workers.
set_up_workers() {
  local files=("${here}/tpu_vm_worker.sh")
  if [[ -z "${url}" ]]; then
    files+=("${scratch}/checkout.tar.gz")
  fi
  to_workers "${files[@]}"
  if ((status == 0)); then
    quote bash tpu_vm_worker.sh setup --bucket "${bucket}" "${code_options[@]}"
    on_workers "${quoted}"
  fi
}

# digest: tells the command from others.
digest=""
digest_program() {
  quote "${program[@]}"
  digest="$(printf '%s' "${quoted}" | cksum | tr ' ' ':')"
}

# launch_workers: start the command, in the background, on all workers. An attempt is started once on each worker, so
# that the call can be repeated after a failure.
attempts=0
launch_workers() {
  local attempt tries
  digest_program
  attempts=$((attempts + 1))
  printf -v attempt '%(%Y%m%d-%H%M%S)T-%s-%s' -1 "$$" "${attempts}"
  quote bash tpu_vm_worker.sh launch --bucket "${bucket}" --run "${name}" --attempt "${attempt}" --digest "${digest}" -- "${program[@]}"
  for ((tries = 0; tries < 3; tries++)); do
    on_workers "${quoted}"
    if ((status == 0)); then
      return
    fi
    pause $((poll_seconds < 5 ? poll_seconds : 5))
  done
}

# show_status: for people.
show_status() {
  read_request
  if [[ "${dry}" == no ]]; then
    printf '%s: %s %s\n' "${name}" "${request}" "${request_details}"
  fi
  if [[ "${dry}" == yes || "${request}" == ACTIVE ]]; then
    read_machine
    ask_workers
    if [[ "${dry}" == no ]]; then
      printf 'machine: %s\n' "${machine}"
      describe_workers
      printf 'it is billed until: %s\n' "${delete_command}"
    fi
    status=0
  fi
}
