# shellcheck shell=bash
# Watching a command on a TPU that may be taken away. Sourced by tpu_pod.sh, whose options it uses.
#
# What is distinguished, and how:
#   the TPU was taken away   the queued resource is no longer ACTIVE, or a node of it is gone: delete, create, go on
#   it was deleted           the same, but by a user, as the queued resource tells: end
#   ssh fails                no answer while the queued resource is ACTIVE and its nodes are READY: look again later
#   the command failed       an exit code other than 0 and 75 on a machine that is still whole at a second look, after
#                            --settle-seconds: end with that code. Never restarted.
#   interrupted              all workers ended, with 0 or 75: run the same command again, unless `stop` asked for it
#   the host restarted       the machine's boot id is another one: run the same command again
# Every restart counts against --max-restarts until a new checkpoint appears.

# workers: what the workers say, together: unreachable, running, done, stopped, interrupted, failed, restarted (a host of
# them), partial (some run the command and some never received it), idle (set up or not, nothing launched).
workers=""
# culprit, code, step, mark: the worker that failed first and its exit code; the newest checkpoint.
culprit=""
code=0
step="-"
mark="-"
other=no
running=0

# ask_workers: the state of all workers, in $workers.
ask_workers() {
  local tag host state result ended at reached attempt assigned stopped
  local -i count=0 idle=0 ended_well=0 interrupted=0 rebooted=0 stops=0 failures_seen=0 first=0
  culprit="" code=0 step="-" mark="-" other=no running=0
  on_workers "if [ -e tpu_vm_worker.sh ]; then bash tpu_vm_worker.sh state; else echo @worker \$(hostname) empty - - - - - - no; fi"
  if ((status != 0)) || [[ "${dry}" == yes ]]; then
    workers=unreachable
    return
  fi
  # attempt is read over: the fields have their places
  while read -r tag host state result ended at reached attempt assigned stopped; do
    if [[ "${tag}" != @worker ]]; then
      continue
    fi
    count=$((count + 1))
    if [[ "${at}" != - ]]; then
      step="${at}"
      mark="${reached}"
    fi
    if [[ "${stopped}" == yes ]]; then
      stops=$((stops + 1))
    fi
    if [[ "${assigned}" != - && "${assigned}" != "${digest}" ]]; then
      other=yes
    fi
    case "${state}" in
      empty | ready) idle=$((idle + 1)) ;;
      running) running=$((running + 1)) ;;
      rebooted) rebooted=$((rebooted + 1)) ;;
      exited)
        if ((result == 0)); then
          ended_well=$((ended_well + 1))
        elif ((result == 75)); then
          interrupted=$((interrupted + 1))
        else
          # Where one fails the others follow, with codes that say nothing: the first one tells.
          if ((failures_seen == 0 || ended < first)); then
            culprit="${host}" code="${result}" first="${ended}"
          fi
          failures_seen=$((failures_seen + 1))
        fi
        ;;
      vanished)
        if ((failures_seen == 0)); then
          culprit="${host}" code=1
        fi
        failures_seen=$((failures_seen + 1))
        ;;
      *) fail "${host} says '${state}', which is no state: upload this version's scripts with setup" 1 ;;
    esac
  done <<<"${answers}"
  if ((count < ${#nodes[@]})); then
    workers=unreachable
    problem="not all workers answered"
  elif ((rebooted > 0)); then
    workers=restarted
  elif ((failures_seen > 0)); then
    workers=failed
  elif ((idle == count)); then
    workers=idle
  elif ((idle > 0)); then
    workers=partial
  elif ((running > 0)); then
    workers=running
  elif ((interrupted == 0)); then
    workers="done"
  elif ((stops > 0)); then
    workers=stopped
  else
    workers=interrupted
  fi
}

# describe_workers: a readable line for each worker.
describe_workers() {
  local tag host state result ended at reached attempt assigned stopped
  if [[ "${workers}" == unreachable ]]; then
    printf 'workers: cannot be reached: %s\n' "${problem}"
    return
  fi
  while read -r tag host state result ended at reached attempt assigned stopped; do
    if [[ "${tag}" == @worker ]]; then
      printf '%s: %s, exit code %s, newest checkpoint %s\n' "${host}" "${state}" "${result}" "${at}"
    fi
  done <<<"${answers}"
}

# leave: the last thing done, however it ends. Says what still exists, or deletes it.
leave() {
  local result=$?
  trap - EXIT
  trap '' INT TERM HUP
  # Where the terminal is gone nothing can be printed, and the TPU is deleted all the same.
  set +e
  # Processes in the background go on after Ctrl-C, as bash has it; nobody waits for them any more.
  if ((${#calls[@]} > 0)); then
    kill "${calls[@]}" 2>/dev/null || true
  fi
  read_request
  if [[ "${request}" != ABSENT && ("${delete_on}" == any-end || ("${delete_on}" == success && "${result}" == 0)) ]]; then
    say "deleting ${name}"
    delete_request
  fi
  if [[ "${request}" != ABSENT ]]; then
    {
      printf '\n'
      case "${request}" in
        UNKNOWN) printf 'WHETHER %s STILL EXISTS IN %s COULD NOT BE ASKED (%s).\n' "${name}" "${zone}" "${problem}" ;;
        ACTIVE) printf 'STILL EXISTS AND IS BILLED: %s (%s x %s in %s).\n' "${name}" "${slices}" "${type}" "${zone}" ;;
        FAILED | SUSPENDED | SUSPENDING | DELETING) printf 'STILL LISTED, AS %s: %s in %s.\n' "${request}" "${name}" "${zone}" ;;
        *) printf 'STILL REQUESTED: %s in %s is %s; if it is granted it is billed.\n' "${name}" "${zone}" "${request}" ;;
      esac
      if ((running > 0)); then
        printf 'The command goes on running there; the same call of this script watches it again.\n'
      fi
      printf 'To delete it: %s\n' "${delete_command}"
    } >&2
  fi
  rm -rf "${scratch}"
  exit "${result}"
}

# leave_by_message: from here on nothing ends without saying what still exists.
leave_by_message() {
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  trap '' PIPE
  trap leave EXIT
}

# count_restart WHY: one more; stop when there are too many in a row without a new checkpoint.
restarts=0
last_mark="-"
count_restart() {
  if ((restarts >= max_restarts)); then
    fail "$1, after ${restarts} restarts without a new checkpoint: something else is wrong" 1
  fi
  restarts=$((restarts + 1))
  say "$1: restart ${restarts} of at most ${max_restarts} without a new checkpoint"
}

# count_failure WHY: one more failed call of gcloud in a row while the TPU exists.
failures=0
count_failure() {
  failures=$((failures + 1))
  if ((failures > max_failures)); then
    fail "$1, ${failures} times in a row; the TPU is ${request}" 1
  fi
  say "$1: checking again in ${poll_seconds} s"
  pause "${poll_seconds}"
}

# begin: set up, once for each machine, and launch. launched: the command was started or found running on this machine.
launched=no
prepared=no
starts=0
begin() {
  local reason limit
  if ((running > 0)); then
    on_workers "bash tpu_vm_worker.sh end 60"
  fi
  status=0
  if [[ "${prepared}" == no ]]; then
    say "setting up ${name}"
    set_up_workers
  fi
  if ((status == 0)); then
    prepared=yes
    launch_workers
  fi
  if ((status == 0)); then
    launched=yes
    starts=0
    say "started: ${program[*]}"
    return
  fi
  # On a machine that is there, the same step fails the same way again: three times are enough. 255 is ssh itself.
  limit=3
  if ((status == 255)); then
    limit="${max_failures}"
  fi
  starts=$((starts + 1))
  read_request
  if [[ "${request}" == ACTIVE ]]; then
    reason="${problem}"
    read_machine
    if ((starts > max_failures)) || [[ "${machine}" == healthy && "${starts}" -ge "${limit}" ]]; then
      fail "${name} could not be set up or started: ${reason}" 1
    fi
    say "setting up or starting failed (${reason}): checking again in ${poll_seconds} s"
    pause "${poll_seconds}"
  fi
}

# settled: after a pause, whether the machine is whole and the workers say the same as before.
settled=no
settle() {
  local before="${workers}"
  settled=no
  pause "${settle_seconds}"
  read_request
  if [[ "${request}" != ACTIVE ]]; then
    return
  fi
  read_machine
  if [[ "${machine}" != healthy ]]; then
    return
  fi
  ask_workers
  if [[ "${workers}" == "${before}" ]]; then
    settled=yes
  fi
}

# end_with_failure: the command's own failure. Nothing is left running, nothing is restarted.
end_with_failure() {
  local result="${code}" log
  if ((running > 0)); then
    on_workers "bash tpu_vm_worker.sh end 60"
  fi
  quote bash tpu_vm_worker.sh log 40 "${culprit}"
  on_workers "${quoted}"
  log="${answers}"
  running=0
  printf '%s\n' "${log}" >&2
  fail "the command failed with exit code ${result} on ${culprit}; above is the end of its log" "${result}"
}

# watch: one look at a TPU that is ACTIVE, and what follows from it.
watch() {
  ask_workers
  if [[ "${workers}" == unreachable ]]; then
    read_machine
    if [[ "${machine}" == lost ]]; then
      # The request follows its nodes after a while, and then tells whether it was a preemption or a deletion.
      pause "${settle_seconds}"
      read_request
      if [[ "${request}" == ACTIVE ]]; then
        request=PREEMPTED
      fi
      return
    fi
    count_failure "the workers cannot be reached (${problem})"
    return
  fi
  failures=0
  if [[ "${other}" == yes && ("${running}" != 0 || "${launched}" == yes) ]]; then
    fail "${name} runs another command: stop it first (tpu_pod.sh stop), or choose another --name" 1
  fi
  if [[ "${launched}" == no ]]; then
    if [[ "${workers}" == running ]]; then
      say "the command runs already; watching it"
      launched=yes
      prepared=yes
    else
      begin
      return
    fi
  fi
  if [[ "${mark}" != - && "${mark}" != "${last_mark}" ]]; then
    last_mark="${mark}"
    restarts=0
    say "newest checkpoint: ${step}"
  fi
  case "${workers}" in
    running) pause "${poll_seconds}" ;;
    done) finished=yes ;;
    stopped)
      say "stopped as asked; everything is saved"
      exit 75
      ;;
    failed)
      say "${culprit} ended with ${code}; checking again in ${settle_seconds} s whether the machine is healthy"
      settle
      if [[ "${settled}" == yes ]]; then
        end_with_failure
      elif [[ "${request}" == ACTIVE && "${machine}" == unwell ]]; then
        count_restart "the command ended while the machine was being repaired"
        launched=no
      fi
      ;;
    interrupted)
      settle
      if [[ "${settled}" == yes ]]; then
        count_restart "the command was interrupted and has saved"
        launched=no
      fi
      ;;
    *)
      count_restart "a host of ${name} was restarted"
      launched=no
      ;;
  esac
}

# show_plan: what a run that is not disturbed would call.
show_plan() {
  check_bucket
  pack_code
  create_request
  await_active
  set_up_workers
  launch_workers
  comment "until the command has ended on all workers, every ${poll_seconds} s"
  read_request
  ask_workers
  comment "where they do not answer, or the command failed: whether the machine is healthy"
  read_machine
  comment "where the command failed: the end of its log"
  on_workers "bash tpu_vm_worker.sh log 40 HOST"
  comment "after a preemption, before it is created again (and at the end, with --delete-on-exit)"
  delete_request
}

# request_anew: create the TPU that is not there; never one that somebody else has deleted.
seen=no
been_active=no
unseen=0
deleted_by_hand=""
request_anew() {
  if [[ "${seen}" == yes ]]; then
    fail "${deleted_by_hand}" 1
  elif ((unseen > 0)); then
    # a request just made may not be found yet
    unseen=$((unseen - 1))
    pause "${poll_seconds}"
    return
  fi
  create_request
  if ((status == 0)); then
    unseen=5
  elif [[ "${been_active}" == no ]]; then
    fail "${refused}" 1
  else
    count_failure "${refused}"
  fi
}

# supervise: the command `run`.
finished=no
supervise() {
  if [[ "${dry}" == yes ]]; then
    show_plan
    return
  fi
  deleted_by_hand="${name} was deleted by somebody else, so it is not created again; the same call of this script would"
  check_bucket
  digest_program
  leave_by_message
  pack_code
  while [[ "${finished}" == no ]]; do
    read_request
    case "${request}" in
      ABSENT)
        request_anew
        continue
        ;;
      CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES)
        seen=yes
        await_active
        continue
        ;;
      UNKNOWN)
        count_failure "the state of ${name} cannot be asked (${problem})"
        continue
        ;;
      ACTIVE)
        seen=yes
        been_active=yes
        watch
        ;;
      FAILED)
        if [[ "${been_active}" == no ]]; then
          fail "the request for ${name} failed: ${request_details}" 1
        fi
        ;;
      *) ;;
    esac
    if [[ "${seen}" == yes && "${initiator}" == USER && "${request}" =~ ^(SUSPENDING|SUSPENDED|DELETING)$ ]]; then
      fail "${deleted_by_hand}" 1
    fi
    case "${request}" in
      ACTIVE) ;;
      SUSPENDING | SUSPENDED | PREEMPTED | FAILED)
        count_restart "${name} was taken away (${request})"
        delete_request
        if [[ "${request}" != ABSENT ]]; then
          fail "${name} could not be deleted: ${problem}" 1
        fi
        launched=no
        prepared=no
        seen=no
        unseen=0
        ;;
      *) pause "${poll_seconds}" ;;
    esac
  done
  status=0
  say "the command ended with 0; results are in gs://${bucket}/runs"
}
