#!/usr/bin/env bash
# The main job on the embedded sample, from nothing: a virtual environment, the package, then
#   1. evaluate an untrained encoder, 2. train it on hybrid batches with two Ray + DeepSpeed workers,
#   3. evaluate it again: the mAP of every (question language, candidate language) pair.
# Needs Python 3.11 or newer and no GPU. Run it again at any time: it reuses the environment and trains again from
# random weights.
#
#   ./launchers/quickstart.sh [KEY=VALUE ...]      overrides of hbt_dist/run_files/quickstart.yaml

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install cpu

rm -rf runs/quickstart
"$venv/bin/hbt-dist" train quickstart "$@"
echo
echo "This script evaluated an encoder with random weights, trained it on batches that are monolingual or"
echo "cross-lingual with equal probability, and evaluated it again on facts that it had not seen. 'not seen' above"
echo "means languages that the training left out."
echo "Report: $here/runs/quickstart/evaluation/end/sample/report.html (against the untrained encoder)"
