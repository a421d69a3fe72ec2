#!/bin/sh
# What this machine boots next, and from then on. As root: boot.sh COMMAND [ARGUMENT...]
#   keep [MODULE...]       what runs now is the default, whatever is installed from now on; the
#                          modules, or those that are loaded, are written down
#   try once|first RELEASE SECONDS   boot this kernel once; it reboots by itself where nobody confirms
#                          it in time. first, where GRUB cannot: it is the default until it is up
#   forget                 no kernel is on trial any more
#   confirm RELEASE        neither is this one: it is the default
#   back                   the kernel from before the first `keep` is the default, or, where it has been
#                          removed, the newest one that is not ours; says which
#   restore                as it was before the first `keep`
# Kept with boot.py, which runs it.
set -eu
umask 022
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

STATE=/var/lib/gs-oom
BEFORE=$STATE/boot-before
MODULES=$STATE/modules-before
CONFIG=$STATE/config-before
CHOICE=/etc/default/grub.d/zz-gs-oom.cfg
UNIT=gs-oom-trial.service
UNIT_FILE=/etc/systemd/system/$UNIT
WATCHDOG=/etc/systemd/system.conf.d/gs-oom-trial.conf
GRUB=/boot/grub
[ -d "$GRUB" ] || GRUB=/boot/grub2

fail() { printf '%s\n' "$*" >&2; exit 1; }
saved_entry() { grub-editenv "$GRUB/grubenv" list | sed -n 's/^saved_entry=//p'; }

# Releases in the menu, each with its entry's id below the ids of the menus that it is in: titles and
# places change.
entries() {
  awk -v mark="menuentry_id_option '" '
    { id = "" }
    i = index($0, mark) { id = substr($0, i + length(mark)); sub(/\047.*/, "", id) }
    /^submenu / { menu = id ">" }
    /^}/ { menu = "" }
    $1 == "menuentry" && match(id, /^gnulinux-.*-advanced-/) {
      print substr(id, 10, RLENGTH - 19), menu id
    }
  ' "$GRUB/grub.cfg"
}

entry_of() { # RELEASE
  entry=$(entries | awk -v release="$1" '$1 == release { print $2; exit }')
  [ -n "$entry" ] || fail "GRUB's menu has no entry for Linux $1"
  printf '%s\n' "$entry"
}

default() { # RELEASE
  entry=$(entry_of "$1")
  grub-set-default "$entry"
  [ "$(saved_entry)" = "$entry" ] || fail "GRUB's default could not be set in $GRUB/grubenv"
}

keep() { # [MODULE...]
  [ ! -e "$UNIT_FILE" ] || ! systemctl is-active --quiet "$UNIT" ||
    fail "Linux $(uname -r) is on trial here: confirm it, or wait until it has gone"
  entry_of "$(uname -r)" >/dev/null
  if [ ! -e "$BEFORE" ]; then
    mkdir -p "$STATE"
    cp "/boot/config-$(uname -r)" "$CONFIG"
    # shellcheck disable=SC2046
    [ $# -gt 0 ] || set -- $(lsmod | sed 1d | cut -d' ' -f1 | sort)
    printf '%s\n' "$@" >"$MODULES"
    printf 'release=%s\nsaved_entry=%s\n' "$(uname -r)" "$(saved_entry)" >"$BEFORE.part"
    mv "$BEFORE.part" "$BEFORE"
  fi
  mkdir -p "${CHOICE%/*}"
  echo 'GRUB_DEFAULT=saved' >"$CHOICE"
  update-grub
  # shellcheck disable=SC2016
  grep -q 'default="${saved_entry}"' "$GRUB/grub.cfg" ||
    fail "GRUB does not take its default from $GRUB/grubenv: does /etc/default/grub.d set another?"
  default "$(uname -r)"
}

# The unit starts before all that could hang, and as the kernel before is the default, a reboot goes
# back to it. Where there is a watchdog it reboots a machine that hangs, once systemd has begun.
try() { # once|first RELEASE SECONDS
  entry=$(entry_of "$2")
  mend=true
  [ "$1" = once ] || mend="until grub-set-default '$(saved_entry)'; do sleep 1; done"
  cat >"$UNIT_FILE" <<END
[Unit]
Description=Go back to the kernel before, unless this one is confirmed
ConditionKernelVersion=$2
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c "$mend & sleep $3; systemctl reboot; sleep 60; systemctl reboot --force --force"
[Install]
WantedBy=sysinit.target
END
  mkdir -p "${WATCHDOG%/*}"
  printf '[Manager]\nRuntimeWatchdogSec=60\n' >"$WATCHDOG"
  systemctl daemon-reload
  systemctl enable --quiet "$UNIT"
  if [ "$1" = once ]; then
    grub-reboot "$entry"
    grub-editenv "$GRUB/grubenv" list | grep -qxF "next_entry=$entry" ||
      fail "GRUB cannot be told to boot Linux $2 once"
  else
    default "$2"
  fi
  sync
}

back() {
  release=$(sed -n 's/^release=//p' "$BEFORE")
  if ! (entry_of "$release") >/dev/null 2>&1; then
    release=$(entries | awk '$1 !~ /-gs-/ { print $1; exit }')
    [ -n "$release" ] || fail "there is no kernel but ours: install the distribution's"
  fi
  default "$release"
  forget
  printf '%s\n' "$release"
}

forget() {
  [ -e "$UNIT_FILE" ] || return 0
  grub-editenv "$GRUB/grubenv" unset next_entry
  systemctl disable --quiet --now "$UNIT"
  rm -f "$UNIT_FILE" "$WATCHDOG"
  rmdir "${WATCHDOG%/*}" 2>/dev/null || true
  systemctl daemon-reload
}

# In this order: where it is cut short nothing reboots a kernel that is the default.
confirm() { # RELEASE
  [ ! -e "$UNIT_FILE" ] || systemctl disable --quiet --now "$UNIT"
  default "$1"
  forget
}

restore() {
  forget
  [ -e "$BEFORE" ] || return 0
  rm -f "$CHOICE"
  old=$(sed -n 's/^saved_entry=//p' "$BEFORE")
  if [ -n "$old" ]; then grub-set-default "$old"; else grub-editenv "$GRUB/grubenv" unset saved_entry; fi
  grub-editenv "$GRUB/grubenv" unset next_entry
  update-grub
  rm -f "$BEFORE" "$MODULES" "$CONFIG"
  rmdir "$STATE" 2>/dev/null || true
}

"$@"
