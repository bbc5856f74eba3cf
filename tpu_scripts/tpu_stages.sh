#!/usr/bin/env bash
# Run experiments in turn on one Cloud TPU: each starts when the one before has finished.
#
#   python -m experiments.unclip --dry-run > stages.txt
#   tpu_scripts/tpu_stages.sh --stages stages.txt --name NAME --zone ZONE --type TYPE --bucket BUCKET [OPTIONS]
#
# The file has a command a line, python -m experiments.X ..., quoted as for a shell; empty lines and those that begin
# with # are left out. Each is run by `tpu_pod.sh run`, with the same options: a TPU that is taken away is created anew
# and the stage resumes; a stage that fails ends this with its exit code. Called again, stages that have finished end at
# once, since the same command resumes, and the others go on.
#
#   --stages FILE            the commands
#   --delete-on-success      delete the TPU when the last stage has ended with 0
#   --delete-on-exit         delete the TPU however this ends, also by Ctrl-C
#   and all other options of `tpu_pod.sh run`, which `tpu_pod.sh --help` lists
#
# DRY_RUN=1 prints the commands that would be run, shell-quoted, and runs none.
# Exit codes: those of `tpu_pod.sh run`.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# shellcheck source-path=SCRIPTDIR source=command_line.sh
source "${here}/command_line.sh"

stages="" delete_on=never
options=() whereabouts=()
if (($# == 0)); then
  set -- --help
fi
while (($# > 0)); do
  case "$1" in
    -h | --help)
      usage_of "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --delete-on-success)
      if [[ "${delete_on}" == never ]]; then
        delete_on=success
      fi
      ;;
    --delete-on-exit) delete_on=any-end ;;
    --spot | --reserved) options+=("$1") ;;
    --) fail "commands come from the file that --stages names, one a line" ;;
    --stages)
      need_value "$@"
      stages="$2"
      shift
      ;;
    --name | --zone | --project | --ssh-option)
      need_value "$@"
      options+=("$1" "$2")
      whereabouts+=("$1" "$2")
      shift
      ;;
    --*)
      need_value "$@"
      options+=("$1" "$2")
      shift
      ;;
    *) fail "'$1' is no option: --help lists the options" ;;
  esac
  shift
done
need_option --stages "${stages}"
if [[ ! -r "${stages}" ]]; then
  fail "${stages} cannot be read: python -m experiments.unclip --dry-run > ${stages} writes it"
fi

commands=()
while IFS= read -r line || [[ -n "${line}" ]]; do
  if [[ "${line}" =~ ^[[:space:]]*(#|$) ]]; then
    continue
  fi
  if [[ ! "${line}" =~ ^python\ -m\ [A-Za-z_][A-Za-z0-9_.]*(\ |$) ]]; then
    fail "${stages} has the line '${line}', which is no python -m experiments.NAME OPTIONS"
  fi
  commands+=("${line}")
done <"${stages}"
if ((${#commands[@]} == 0)); then
  fail "${stages} has no command"
fi

# words: the answer of `split`.
words=()
# split LINE: its words, with quotes and backslashes as a shell reads them, and nothing expanded or run.
split() {
  local line="$1" word="" started=no quote="" index character
  words=()
  for ((index = 0; index < ${#line}; index++)); do
    character="${line:index:1}"
    if [[ -n "${quote}" ]]; then
      if [[ "${character}" == "${quote}" ]]; then
        quote=""
      else
        word+="${character}"
      fi
      continue
    fi
    case "${character}" in
      "'" | '"')
        quote="${character}"
        started=yes
        ;;
      \\)
        index=$((index + 1))
        word+="${line:index:1}"
        started=yes
        ;;
      ' ' | $'\t')
        if [[ "${started}" == yes ]]; then
          words+=("${word}")
        fi
        word="" started=no
        ;;
      *)
        word+="${character}"
        started=yes
        ;;
    esac
  done
  if [[ -n "${quote}" ]]; then
    fail "${stages} has a line whose quotes do not end: ${line}"
  fi
  if [[ "${started}" == yes ]]; then
    words+=("${word}")
  fi
}

# delete_at_the_end: of --delete-on-exit, where a stage before the last one ends everything.
delete_at_the_end() {
  execute "${here}/tpu_pod.sh" delete "${whereabouts[@]}"
}

for command in "${commands[@]}"; do
  split "${command}"  # wrong quotes are an error before the first stage
done
if [[ "${delete_on}" == any-end && "${dry}" == no ]]; then
  trap delete_at_the_end EXIT
fi
for number in "${!commands[@]}"; do
  split "${commands[${number}]}"
  place="stage $((number + 1)) of ${#commands[@]}"
  last=()
  if ((number + 1 == ${#commands[@]})); then
    if [[ "${delete_on}" == success ]]; then
      last=(--delete-on-success)
    elif [[ "${delete_on}" == any-end ]]; then
      last=(--delete-on-exit)
      trap - EXIT
    fi
  fi
  say "${place}: ${commands[${number}]}"
  execute "${here}/tpu_pod.sh" run "${options[@]}" "${last[@]}" -- "${words[@]}"
  if ((status != 0)); then
    say "${place} ended with ${status}; the same call goes on from there"
    exit "${status}"
  fi
done
