#!/usr/bin/env bash
# The tests, from nothing: a virtual environment, the package with its development tools, then ruff, the type
# checker, the search for dead code and pytest. Run it again at any time: it reuses what is there.
#
#   ./launchers/test.sh [PYTEST ARGUMENTS ...]     for example: -m "not slow" or tests/batching

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install cpu,dev

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m vulture
exec "$python" -m pytest "$@"
