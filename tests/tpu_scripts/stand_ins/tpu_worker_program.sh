#!/usr/bin/env bash
# Stands in, in tests, for the programs of a TPU worker; a link's name tells which one it is. The python of the virtual
# environment plays the part of an experiment: its n-th start on a worker writes down its arguments and runs the script
# $CLOUD/plan/n (or $CLOUD/plan/n-WORKER), which may use the functions below.
set -euo pipefail
: "${CLOUD:?}" "${WORKER:?}"

# save STEP: write a checkpoint where the log says that the run is.
save() {
  mkdir -p "runs/demo/checkpoints/$1"
}

# until_asked STEP: train until SIGTERM, then save and leave as an experiment does.
until_asked() {
  trap 'save "$1"; exit 75' TERM
  while true; do
    sleep 0.05
  done
}

# preempt: the machine is taken away from under the command.
preempt() {
  touch "${CLOUD}/preempt"
  sleep 60
}

program="${0##*/}"
itself="$(readlink -f "$0")"
case "${program}" in
  sudo) exec "$@" ;;
  apt-get)
    printf '%s\n' "$*" >>"${CLOUD}/installed"
    if [[ "${*: -1}" == gcsfuse ]]; then
      ln -s "${itself}" "${HOME}/bin/gcsfuse"
    fi
    ;;
  curl) printf 'key\n' ;;
  tee) cat >/dev/null ;;
  lsb_release) printf 'jammy\n' ;;
  hostname) printf '%s\n' "${WORKER}" ;;
  mountpoint) [[ -L "${2}" ]] ;;
  gcsfuse)
    bucket="${*: -2:1}"
    folder="${*: -1}"
    printf '%s\n' "$*" >>"${CLOUD}/mounts"
    [[ "${bucket}" == results ]] || exit 1
    mkdir -p "${CLOUD}/bucket"
    rmdir "${folder}"
    ln -s "${CLOUD}/bucket" "${folder}"
    ;;
  python3)
    printf '%s\n' "$*" >>"${CLOUD}/installed"
    if [[ "$2" == uv ]]; then
      mkdir -p "${HOME}/venv/bin"
      ln -sf "${itself}" "${HOME}/venv/bin/python"
    fi
    ;;
  python)
    if [[ "$2" == pip ]]; then
      printf '%s\n' "$*" >>"${CLOUD}/installed"
      exit 0
    fi
    mkdir -p "${CLOUD}/starts"
    number=1
    while [[ -e "${CLOUD}/starts/${WORKER}.${number}" ]]; do
      number=$((number + 1))
    done
    printf '%s\0' "$@" >"${CLOUD}/starts/${WORKER}.${number}"
    printf 'demo in runs/demo\nstart %s on %s\n' "${number}" "${WORKER}"
    plan="${CLOUD}/plan/${number}"
    if [[ -e "${plan}-${WORKER}" ]]; then
      plan="${plan}-${WORKER}"
    fi
    # shellcheck source=/dev/null  # the test writes it
    source "${plan}"
    ;;
  *)
    printf '%s is not installed\n' "${program}" >&2
    exit 127
    ;;
esac
