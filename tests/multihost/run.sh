#!/usr/bin/env bash
# Try several hosts on this one machine: namespaces with their own addresses and sshd, made and removed by the test.
# Needs root, and: apt-get install openssh-server openssh-client rsync iproute2 pdsh
#
#   sudo ./tests/multihost/run.sh [PYTEST ARGUMENTS ...]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${HBT_DIST_VENV:-.venv}/bin/python" -m pytest tests/multihost -m cluster -v -s "$@"
