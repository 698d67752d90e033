#!/usr/bin/env bash
# Train with `accelerate launch`. It only starts the processes: the training loop drives DeepSpeed itself.
#
#   ./launchers/accelerate.sh NUM_PROCESSES RUN.yaml [KEY=VALUE ...]
#
# Other options of accelerate: ACCELERATE_OPTIONS (such as "--num_machines 2 --machine_rank 0 --main_process_ip HEAD").

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -gt 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
processes="$1"
shift
on_cpu=()
compgen -G '/dev/nvidia[0-9]*' >/dev/null || on_cpu=(--cpu)
# shellcheck disable=SC2086
exec accelerate launch "${on_cpu[@]}" --num_processes "$processes" --main_process_port 0 \
    ${ACCELERATE_OPTIONS:-} "$here/train.py" "$@"
