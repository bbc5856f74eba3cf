#!/usr/bin/env bash
# What tpu_pod.sh runs on every worker of a TPU, in the home folder there. It keeps what it knows in ~/vision-run.
#
#   tpu_vm_worker.sh setup --bucket NAME [--git URL --commit HASH]
#       Install gcsfuse, Python 3.12 in ~/venv and the code in ~/vision, from ~/checkout.tar.gz unless --git is given.
#   tpu_vm_worker.sh launch --bucket NAME --run NAME --attempt ID --digest D -- python -m experiments.NAME OPTIONS
#       Mount the bucket at ~/bucket, lead ~/vision/runs into it, and start the command in the background.
#       The same attempt is started once, however often this is called.
#   tpu_vm_worker.sh state
#       One line: @worker HOST STATE CODE ENDED STEP MARK ATTEMPT DIGEST STOPPED, "-" for what there is not.
#       STATE: empty (not set up), ready (nothing launched), running, exited (with CODE, at nanosecond ENDED), vanished (the
#       process is gone and left no code), rebooted (the machine was restarted under it). STEP is that of the newest
#       checkpoint, MARK changes with it. STOPPED is yes after `stop`.
#   tpu_vm_worker.sh log LINES [HOST]   the end of the log; only on HOST if one is named
#   tpu_vm_worker.sh stop               ask the command to save and to end (SIGTERM)
#   tpu_vm_worker.sh end SECONDS        the same, and kill it after SECONDS
set -euo pipefail

run="${HOME}/vision-run"
code="${HOME}/vision"
venv="${HOME}/venv"
mount="${HOME}/bucket"

fail() {
  printf 'error: %s (%s)\n' "$1" "${host}" >&2
  exit 1
}

# state: the answer of `look`.
state=""
host="$(hostname)"
boot="$(cat /proc/sys/kernel/random/boot_id)"

# look: what became of the command, in $state. The exit code is written last, hence looked for first and last.
look() {
  local holder
  if [[ ! -e "${run}/ready" ]]; then
    state=empty
  elif [[ ! -e "${run}/attempt" ]]; then
    state=ready
  elif [[ -e "${run}/exit" ]]; then
    state=exited
  elif [[ "$(<"${run}/boot")" != "${boot}" ]]; then
    state=rebooted
  else
    holder="$(<"${run}/holder")"
    if kill -0 "${holder}" 2>/dev/null; then
      state=running
    elif [[ -e "${run}/exit" ]]; then
      state=exited
    else
      state=vanished
    fi
  fi
}

# step, mark: the answer of `progress`.
step="-"
mark="-"

# progress: the newest checkpoint of the run directory that the log named last ("EXPERIMENT in FOLDER").
progress() {
  local folder line newest
  if [[ ! -e "${run}/log" ]]; then
    return
  fi
  while IFS= read -r line; do
    folder="${line#* in }"
    if [[ "${folder}" != /* ]]; then
      folder="${code}/${folder}"
    fi
    if [[ -d "${folder}/checkpoints" ]]; then
      newest="$(find "${folder}/checkpoints/" -maxdepth 1 -name '[0-9]*' -printf '%f\n' | { grep -xE '[0-9]+' || true; } | sort -n | tail -n 1)"
      if [[ -n "${newest}" ]]; then
        step="${newest}"
        mark="$(printf '%s:%s' "${folder}" "${newest}" | cksum | tr ' ' ':')"
      fi
    fi
  done < <(grep -E '^[A-Za-z0-9_.]+ in [^ ]' "${run}/log" | tail -n 20 || true)
}

# install_gcsfuse: from Google's package source. Freshly booted machines hold the package lock for minutes.
install_gcsfuse() {
  local codename tries=0
  if command -v gcsfuse >/dev/null; then
    return
  fi
  codename="$(lsb_release -c -s)"
  curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg \
    | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  printf 'deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-%s main\n' \
    "${codename}" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  until sudo apt-get -o DPkg::Lock::Timeout=600 --quiet update; do
    tries=$((tries + 1))
    if ((tries == 20)); then
      fail "apt-get update failed 20 times"
    fi
    sleep 15
  done
  sudo apt-get -o DPkg::Lock::Timeout=600 --quiet install --yes gcsfuse
}

# mount_bucket NAME: the bucket at ~/bucket.
#
# No metadata is cached, because all workers of a pod write parts of one checkpoint and must see each other's files;
# and writes are staged, so that fsync puts a file into the bucket, which streaming writes leave to close.
mount_bucket() {
  if mountpoint -q "${mount}"; then
    if [[ "$(<"${run}/bucket")" != "$1" ]]; then
      fail "another bucket is mounted here: delete the TPU or choose another --name"
    fi
  else
    # one that has died is still in the way
    fusermount -uz "${mount}" 2>/dev/null || true
    mkdir -p "${mount}"
    gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 --enable-streaming-writes=false \
      "$1" "${mount}" >&2
    printf '%s\n' "$1" >"${run}/bucket"
  fi
  if [[ -d "${code}/runs" && ! -L "${code}/runs" ]]; then
    fail "the code has a folder named runs, where the link into the bucket belongs"
  fi
  mkdir -p "${mount}/runs"
  ln -sfn "${mount}/runs" "${code}/runs"
}

bucket="" url="" commit="" name="" attempt="" digest=""
subcommand="${1:-}"
shift $(($# > 0 ? 1 : 0))
if [[ "${subcommand}" == setup || "${subcommand}" == launch ]]; then
  while (($# > 0)); do
    option="$1"
    shift
    if [[ "${option}" == -- ]]; then
      break
    fi
    (($# > 0)) || fail "${option} needs a value"
    case "${option}" in
      --bucket) bucket="$1" ;;
      --git) url="$1" ;;
      --commit) commit="$1" ;;
      --run) name="$1" ;;
      --attempt) attempt="$1" ;;
      --digest) digest="$1" ;;
      *) fail "there is no option ${option}" ;;
    esac
    shift
  done
fi

case "${subcommand}" in
  setup)
    look
    if [[ "${state}" == running ]]; then
      fail "a command is running here: stop it first"
    fi
    rm -rf "${code}"
    rm -f "${run}/ready" "${run}/attempt"
    mkdir -p "${run}" "${code}"
    install_gcsfuse
    if [[ -n "${url}" ]]; then
      git clone --quiet "${url}" "${code}"
      git -C "${code}" checkout --quiet "${commit}"
    else
      tar -xzf "${HOME}/checkout.tar.gz" -C "${code}"
    fi
    # The images of TPU machines have Python 3.10; uv brings another one without touching theirs.
    if [[ ! -e "${venv}/bin/python" ]]; then
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --seed --python 3.12 "${venv}"
    fi
    cd "${code}"
    "${venv}/bin/python" -m pip install --quiet -e ".[tpu]"
    mount_bucket "${bucket}"
    touch "${run}/ready"
    printf '%s is set up\n' "${host}"
    ;;
  launch)
    look
    if [[ "${state}" == empty ]]; then
      fail "this worker is not set up: run setup first"
    elif [[ "${state}" != ready && "$(<"${run}/attempt")" == "${attempt}" ]]; then
      printf '%s has started it already\n' "${host}"
      exit 0
    elif [[ "${state}" == running ]]; then
      fail "another command is running here: stop it first"
    fi
    # The lines below belong together, whatever becomes of this connection.
    trap '' HUP
    mount_bucket "${bucket}"
    rm -f "${run}/attempt" "${run}/exit" "${run}/pid" "${run}/stopped"
    printf '%s\n' "${boot}" >"${run}/boot"
    printf '%s\n' "${digest}" >"${run}/digest"
    printf '%s\n' "${name}" >"${run}/name"
    # On its own and without a terminal: nothing happens to it when this connection ends.
    setsid bash "${HOME}/tpu_vm_worker.sh" hold "$@" >"${run}/log" 2>&1 </dev/null &
    holder=$!
    printf '%s\n' "${holder}" >"${run}/holder"
    printf '%s\n' "${attempt}" >"${run}/attempt"
    for ((tenths = 0; tenths < 300; tenths++)); do
      if [[ -e "${run}/pid" ]] || ! kill -0 "${holder}" 2>/dev/null; then
        break
      fi
      sleep 0.1
    done
    [[ -e "${run}/pid" ]] || fail "the command could not be started: $(tail -n 3 "${run}/log" || true)"
    printf '%s runs attempt %s\n' "${host}" "${attempt}"
    ;;
  hold)
    # SIGTERM, which a machine that is shut down sends to all, is for the command; this shell waits for its exit code.
    signalled=no
    trap 'signalled=yes' TERM HUP INT
    cd "${code}"
    export PATH="${venv}/bin:${PATH}" PYTHONUNBUFFERED=1
    "$@" &
    child=$!
    printf '%s\n' "${child}" >"${run}/pid"
    while true; do
      signalled=no
      result=0
      wait "${child}" || result=$?
      if [[ "${signalled}" == no ]]; then
        break
      fi
    done
    # The machine may be deleted as soon as the exit code is known, so its log is brought to safety first.
    name="$(<"${run}/name")"
    started="$(<"${run}/attempt")"
    timeout 120 mkdir -p "${mount}/logs/${name}" || true
    timeout 120 cp "${run}/log" "${mount}/logs/${name}/${started}-${host}.log" || true
    ended="$(date +%s%N)"
    printf '%s %s\n' "${result}" "${ended}" >"${run}/exit.new"
    mv "${run}/exit.new" "${run}/exit"
    ;;
  state)
    look
    result="-" ended="-" attempt="-" digest="-" stopped=no
    if [[ "${state}" == exited ]]; then
      read -r result ended <"${run}/exit"
    fi
    if [[ "${state}" != empty && "${state}" != ready ]]; then
      attempt="$(<"${run}/attempt")"
      digest="$(<"${run}/digest")"
      if [[ -e "${run}/stopped" ]]; then
        stopped=yes
      fi
      progress
    fi
    printf '@worker %s %s %s %s %s %s %s %s %s\n' "${host}" "${state}" "${result}" "${ended}" "${step}" "${mark}" \
      "${attempt}" "${digest}" "${stopped}"
    ;;
  log)
    if [[ -z "${2:-}" || "${2:-}" == "${host}" ]]; then
      tail -n "${1:?}" "${run}/log"
    fi
    ;;
  stop | end)
    look
    if [[ "${state}" != running ]]; then
      printf '%s: nothing is running\n' "${host}"
      exit 0
    fi
    if [[ "${subcommand}" == stop ]]; then
      touch "${run}/stopped"
    fi
    kill -TERM "$(<"${run}/pid")"
    printf '%s: asked to save and to end\n' "${host}"
    if [[ "${subcommand}" == end ]]; then
      for ((second = 0; second < ${1:?}; second++)); do
        look
        if [[ "${state}" != running ]]; then
          exit 0
        fi
        sleep 1
      done
      kill -KILL "$(<"${run}/pid")" 2>/dev/null || true
    fi
    ;;
  *) fail "tpu_vm_worker.sh is called by tpu_pod.sh, with setup, launch, state, log, stop or end" ;;
esac
