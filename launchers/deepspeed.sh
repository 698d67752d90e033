#!/usr/bin/env bash
# Train with DeepSpeed's own launcher, on this machine or over ssh/pdsh on the hosts of a hostfile.
#
#   ./launchers/deepspeed.sh [NUM_PROCESSES] RUN.yaml [KEY=VALUE ...]
#   HOSTFILE=hosts.txt ./launchers/deepspeed.sh RUN.yaml [KEY=VALUE ...]
#
# A hostfile has lines such as `worker-1 slots=8`. All hosts need the same environment under the same path, a login
# without password and a shared output_dir; this machine needs pdsh. Other options of the launcher: DEEPSPEED_OPTIONS
# (such as "--master_port 29600 --ssh_port 2222"). It never restarts a failed run: start it again to continue.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
if [ -n "${HOSTFILE:-}" ]; then
    where=(--hostfile "$HOSTFILE")
else
    processes=1
    if [[ "$1" =~ ^[0-9]+$ ]]; then processes="$1"; shift; fi
    where=(--num_gpus "$processes")
fi
# shellcheck disable=SC2086
exec deepspeed "${where[@]}" --no_local_rank ${DEEPSPEED_OPTIONS:-} "$here/train.py" "$@"
