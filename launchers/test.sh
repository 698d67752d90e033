#!/usr/bin/env bash
# The tests, from nothing: a virtual environment, the package with its development tools, then ruff, the type
# checker, the search for dead code and pytest. Run it again at any time: it reuses what is there.
#
#   ./launchers/test.sh [PYTEST ARGUMENTS ...]     for example: -m "not slow" or tests/batching
#
# Two files of tests run at a time, since much of the time is waiting for processes; HBT_DIST_TEST_PROCESSES=0 runs
# one after another.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install cpu,dev

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m vulture
exec "$python" -m pytest -n "${HBT_DIST_TEST_PROCESSES:-2}" --dist loadfile "$@"
