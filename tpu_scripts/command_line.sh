# shellcheck shell=bash
# What the commands of this folder share: errors of one sentence, quoting, DRY_RUN=1. Sourced, never run.
#
# Functions give their answers in variables named below and leave the exit status at 0, because `set -e` does not act
# inside a function that stands in a condition.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  printf 'error: bash 4.4 or newer is needed, this is %s (macOS: brew install bash)\n' "${BASH_VERSION}" >&2
  exit 2
fi

# quoted: the answer of `quote`.
quoted=""
# status, output: exit status and standard output of what `execute` or `capture` ran last.
status=0
# shellcheck disable=SC2034  # read by the scripts that source this file
output=""

# fail SENTENCE [CODE]: stop with one line on standard error.
fail() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-2}"
}

# say TEXT...: a line with the time, on standard error, as everything that is not asked-for output.
say() {
  printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2
}

# quote WORD...: the words as any POSIX shell reads them back, in $quoted.
quote() {
  local word escaped apostrophe="'" plain='^[A-Za-z0-9_@%+=:,./-]+$'
  quoted=""
  for word in "$@"; do
    if [[ ! "${word}" =~ ${plain} ]]; then
      escaped="${word//${apostrophe}/${apostrophe}\\${apostrophe}${apostrophe}}"
      word="${apostrophe}${escaped}${apostrophe}"
    fi
    quoted+="${quoted:+ }${word}"
  done
}

# dry: whether commands are printed only.
dry=no
case "${DRY_RUN:-0}" in
  0 | '') ;;
  1) dry=yes ;;
  *) fail "DRY_RUN is 1 (print commands, run none) or 0, not ${DRY_RUN}" ;;
esac

# execute WORD...: run a command, its exit status in $status; with DRY_RUN=1 print it, shell-quoted, and run nothing.
execute() {
  status=0
  if [[ "${dry}" == yes ]]; then
    quote "$@"
    printf '%s\n' "${quoted}"
  else
    "$@" || status=$?
  fi
}

# capture WORD...: as `execute`, with the standard output in $output.
capture() {
  status=0
  output=""
  if [[ "${dry}" == yes ]]; then
    quote "$@"
    printf '%s\n' "${quoted}"
  else
    # shellcheck disable=SC2034  # read by the scripts that source this file
    output="$("$@")" || status=$?
  fi
}

# comment TEXT...: a line that explains what DRY_RUN=1 prints.
comment() {
  if [[ "${dry}" == yes ]]; then
    printf '# %s\n' "$*"
  fi
}

# need PROGRAM HINT: stop unless the program is installed; nothing is needed for a dry run.
need() {
  if [[ "${dry}" == no ]] && ! command -v "$1" >/dev/null; then
    fail "$1 is not installed: $2"
  fi
}

# need_value OPTION VALUE...: stop when an option stands last, without its value; called with all words that are left.
need_value() {
  if (($# < 2)); then
    fail "$1 needs a value"
  fi
}

# need_option OPTION VALUE: stop unless the option was given.
need_option() {
  if [[ -z "$2" ]]; then
    fail "$1 is missing: --help lists the options"
  fi
}

# need_number OPTION VALUE LEAST: stop unless VALUE is a whole number that is not below LEAST.
need_number() {
  if [[ ! "$2" =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3)); then
    fail "$1 takes a whole number from $3, not '$2'"
  fi
}

# usage_of FILE: the comment at the head of a script, without the first line and the signs, is its usage text.
usage_of() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}
