#!/usr/bin/env bash
# Process 1 of one simulated host; started by hosts.py in namespaces of its own (network, mounts, names, processes).
#
#   host_init.sh NAME FOLDER SHARED     FOLDER: what is private to the host; SHARED: seen as /mnt by all hosts
#
# The host has its own home folder, /tmp, /run and /dev/shm and its own sshd; installed programs are those of the machine.

set -euo pipefail
name="$1" folder="$2" shared="$3"
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd
mount --bind "$shared" /mnt
mount --bind "$folder/home" /home
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/tmp" /tmp # last: FOLDER may lie below it
cd /
/usr/sbin/sshd -f /home/root/.sshd/config -E /home/root/.sshd/log
while true; do # reap what is left by others
    sleep 3600 &
    wait -n || true
done
