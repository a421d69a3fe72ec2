#!/bin/sh
# Says what kind of machine this is, a line key=value for each fact; changes nothing.
# Runs on any POSIX sh, as any user; with an argument, sudo's password is on stdin. Kept with
# preflight.py, which reads it.
say() { printf '%s=%s\n' "$1" "$2"; }
first() { IFS= read -r line 2>/dev/null <"$1" && printf %s "$line"; }
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

[ $# -eq 0 ] || IFS= read -r password
say user "$(id -un)"
as_root() { "$@"; }
if [ "$(id -u)" -eq 0 ]; then say root yes
elif sudo -n true 2>/dev/null; then say root sudo; as_root() { sudo -n "$@"; }
elif [ $# -gt 0 ]; then
  as_root() { printf '%s\n' "$password" | sudo -S -p '' "$@"; }
  if as_root true 2>/dev/null; then say root password; else say root wrong; as_root() { false; }; fi
else say root no; fi

# shellcheck disable=SC1091
( . /etc/os-release 2>/dev/null; say os_name "${PRETTY_NAME:-unknown}" )
say machine "$(uname -m)"
release=$(uname -r)
say release "$release"
say processors "$(getconf _NPROCESSORS_ONLN)"
while read -r key kb _; do
  case $key in MemTotal:) say memory_kb "$kb" ;; SwapTotal:) say swap_kb "$kb" ;; esac
done </proc/meminfo
say clock "$(date +%s)"
say init "$(first /proc/1/comm)"
container=$(systemd-detect-virt --container 2>/dev/null)
say container "${container#none}"

free_kb() { df -Pk "$1" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && printf %s "$free"; }; }
say root_free_kb "$(free_kb /)"
say boot_free_kb "$(free_kb /boot)"
say home_free_kb "$(free_kb "$HOME")"

command -v dpkg >/dev/null 2>&1 && say packages dpkg
for folder in /boot/grub /boot/grub2; do
  [ -d "$folder" ] || continue
  command -v grub-editenv >/dev/null 2>&1 || continue
  say loader grub
  say grub "$folder"
  # Where GRUB cannot write its environment, it boots the one-shot entry for ever.
  say grub_abstraction "$(as_root grub-probe --target=abstraction "$folder" 2>/dev/null | tr '\n' ' ')"
  say grub_fs "$(as_root grub-probe --target=fs "$folder" 2>/dev/null)"
  [ -e "$folder/grubenv" ] && say grubenv yes
  break
done
for file in /sys/firmware/efi/efivars/SecureBoot-*; do
  [ -e "$file" ] && say secure_boot "$(od -An -tu1 -j4 -N1 "$file" 2>/dev/null | tr -d ' ')"
done
if [ -d /sys/firmware/efi ]; then say firmware efi; else say firmware bios; fi

[ -e "/lib/modules/$release/build/Makefile" ] && say headers yes
[ -d "${XDG_CACHE_HOME:-$HOME/.cache}/gs-oom/build/kernel-source" ] && say built_before yes
python=$(/usr/bin/python3 -V 2>/dev/null)
say python "${python#Python }"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
say libc "${libc#glibc }"
command -v dkms >/dev/null 2>&1 && say dkms yes
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then say cgroup 2
elif [ -d /sys/fs/cgroup/memory ]; then say cgroup 1; fi
set -- systemd-oomd earlyoom nohang nohang-desktop
systemctl is-active "$@" 2>/dev/null | for unit; do
  read -r state && [ "$state" = active ] && say killer "$unit"
done
# What boot.sh has written down.
sed -n 's/^release=/kernel_before=/p' /var/lib/gs-oom/boot-before 2>/dev/null
[ -e /etc/systemd/system/gs-oom-trial.service ] && say trial yes
if [ -r /proc/graceful_shutdown_features ]; then
  sed -n 's/^attachment=/gs_&/p' /proc/graceful_shutdown_features
fi
