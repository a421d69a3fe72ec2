#!/bin/sh
# A long program on a host, which goes on where nobody follows it: job.sh COMMAND FOLDER ...
#   start FOLDER WORD...   start it, unless it runs; says "started" or "found"
#   more FOLDER BYTES      a line with how it stands ("runs", its exit status, or "lost" where it ended
#                          without one) and the size of its log; then the log from there on. Waits for
#                          a while where there is nothing new
#   out FOLDER             what it printed on stdout
#   stop FOLDER            end it, and all that it started
# Who holds the lock is the job. Kept with jobs.py, which runs it.
set -eu
umask 022

fail() { printf '%s\n' "$*" >&2; exit 1; }

running() {
  flock --nonblock --conflict-exit-code 75 lock true && return 1
  [ $? -eq 75 ] || fail "$PWD/lock cannot be locked"
}

has_systemd() { [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ]; }
unit() { printf 'gs-oom-job-%s\n' "${PWD##*/}"; }

start() { # FOLDER WORD...
  cd "$1"
  shift
  if running; then echo found; return; fi
  token=$$-$(date +%s%N)
  # systemd would make one dollar of two.
  # shellcheck disable=SC2016
  job='exec 9>lock; flock --nonblock 9 || exit
    rm -f status; : >log
    read -r pid _ </proc/self/stat; echo "$pid" >pid; echo "$1" >by; shift
    "$@" >out 2>log </dev/null 9>&- && status=0 || status=$?
    echo "$status" >status.part && mv status.part status'
  # In a unit of its own, where nothing ends it with the session.
  if has_systemd; then
    systemd-run --quiet --collect --unit="$(unit)" --working-directory="$PWD" \
      sh -c "$job" job "$token" "$@"
  else
    setsid sh -c "$job" job "$token" "$@" </dev/null >/dev/null 2>&1 &
  fi
  for _ in $(seq 100); do
    if [ "$(cat by 2>/dev/null)" = "$token" ]; then echo started; return; fi
    sleep 0.1
  done
  if running; then echo found; return; fi # somebody else was quicker
  fail "it did not start in $PWD"
}

more() { # FOLDER BYTES
  cd "$1"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if ! running || [ "$(stat -c %s log)" -gt "$2" ]; then break; fi
    sleep 1
  done
  stands=
  if running; then stands=runs; else stands=$(cat status 2>/dev/null || :); fi
  size=$(stat -c %s log)
  echo "${stands:-lost} $size"
  tail -c "+$(($2 + 1))" log | head -c "$((size - $2))"
}

out() { cat "$1/out"; } # FOLDER

stop() { # FOLDER
  cd "$1" 2>/dev/null || return 0
  running || return 0
  if has_systemd; then
    systemctl stop "$(unit)"
    return
  fi
  group=$(ps -o pgid= -p "$(cat pid)" | tr -d ' ')
  [ -n "$group" ] || return 0
  kill -s TERM -- "-$group"
  for _ in $(seq 200); do
    kill -s 0 -- "-$group" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -s KILL -- "-$group"
}

"$@"
