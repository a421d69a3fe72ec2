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

running() { ! flock --nonblock lock true; }

start() { # FOLDER WORD...
  cd "$1"
  shift
  if running; then echo found; return; fi
  rm -f status pid
  : >log
  # shellcheck disable=SC2016
  job='exec 9>lock; flock --nonblock 9 || exit
    echo $$ >pid
    "$@" >out 2>log </dev/null 9>&- && status=0 || status=$?
    echo $status >status.part; mv status.part status'
  # In a unit of its own, where nothing ends it with the session.
  if [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ]; then
    systemd-run --quiet --collect --working-directory="$PWD" sh -c "$job" job "$@"
  else
    setsid sh -c "$job" job "$@" </dev/null >/dev/null 2>&1 &
  fi
  until [ -s pid ] || [ -e status ]; do sleep 0.1; done
  echo started
}

more() { # FOLDER BYTES
  cd "$1"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if ! running || [ "$(stat -c %s log)" -gt "$2" ]; then break; fi
    sleep 1
  done
  if running; then stands=runs; else stands=$(cat status 2>/dev/null || echo lost); fi
  size=$(stat -c %s log)
  echo "$stands $size"
  tail -c "+$(($2 + 1))" log | head -c "$((size - $2))"
}

out() { cat "$1/out"; } # FOLDER

stop() { # FOLDER
  cd "$1" 2>/dev/null || return 0
  if running; then kill -s TERM -- "-$(ps -o pgid= -p "$(cat pid)" | tr -d ' ')"; fi
}

"$@"
