#!/usr/bin/env bash
# Check and test from nothing: make a virtual environment with the package and its development tools, then run ruff,
# mypy, vulture and pytest. Run it again at any time: it reuses the environment.
#
#   ./launchers/test.sh [PYTEST ARGUMENTS ...]           tests of 5 seconds at most; for example: tests/batching
#   ./launchers/test.sh --all [PYTEST ARGUMENTS ...]     also Ray, launchers, deaths, wheels, browsers, real data
#
# HBT_DIST_VERSIONS=oldest HBT_DIST_VENV=.venv-oldest tests with the oldest versions that pyproject.toml admits, without
# ruff, mypy and vulture.
# HBT_DIST_TEST_PROCESSES sets how many tests run at a time (default: 2; with --all 3, because those mostly wait for
# processes). 0 runs one test after another. Tests marked `cluster` run by name: pytest -m cluster.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install cpu,dev

processes=2
selection=()
if [ "${1:-}" = --all ]; then
    shift
    processes=3
    selection=(-m "not cluster")
fi

if [ "${HBT_DIST_VERSIONS:-tested}" = tested ]; then
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m mypy
    "$python" -m vulture
fi
exec "$python" -m pytest -n "${HBT_DIST_TEST_PROCESSES:-$processes}" --dist worksteal "${selection[@]}" "$@"
