#!/usr/bin/env bash
# Train with torchrun, on this machine or on several.
#
#   ./launchers/torchrun.sh NUM_PROCESSES RUN.yaml [KEY=VALUE ...]
#   NUM_NODES=2 RENDEZVOUS=head:29500 ./launchers/torchrun.sh 8 RUN.yaml ...      the same command on every node
#
# RENDEZVOUS is a free port of one node. With MAX_RESTARTS=3 torchrun restarts all processes from the last checkpoint
# when one of them fails.

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -gt 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
processes="$1"
shift
exec torchrun --nnodes "${NUM_NODES:-1}" --nproc_per_node "$processes" --max-restarts "${MAX_RESTARTS:-0}" \
    --rdzv-backend c10d --rdzv-endpoint "${RENDEZVOUS:-localhost:0}" "$here/train.py" "$@"
