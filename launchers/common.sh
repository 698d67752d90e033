# Make (or reuse) a virtual environment with the package, for quickstart.sh and test.sh.
# These scripts source this file. Sets $python and $here (the root of the repository).

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$here"
venv="${HBT_DIST_VENV:-$here/.venv}"
python="$venv/bin/python"

find_python() {
    for candidate in "${HBT_DIST_PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found" >&2
    echo "       install python3.11 with its venv module, or set HBT_DIST_PYTHON" >&2
    exit 2
}

# Print the versions to install: those of constraints.txt, with HBT_DIST_VERSIONS=oldest those of
# constraints-oldest.txt where it names one.
tested_versions() {
    if [ "${HBT_DIST_VERSIONS:-tested}" = oldest ]; then
        grep -v '^#' constraints-oldest.txt
        grep -vf <(sed -n 's/^\([a-zA-Z].*==\).*/^\1/p' constraints-oldest.txt) constraints.txt
    else
        cat constraints.txt
    fi
}

# install EXTRAS: install the package with these extras, unless this version of it is installed.
install() {
    local extras="$1" versions digest stamp base
    versions="$(tested_versions)"
    digest="$(cat pyproject.toml - <<<"$versions" | sha256sum | cut -d' ' -f1)"
    stamp="$venv/.installed-${extras//,/-}"
    if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ]; then
        return
    fi
    if [ ! -x "$python" ]; then
        base="$(find_python)"
        echo "making a virtual environment in $venv with $("$base" --version)"
        "$base" -m venv "$venv" || {
            echo "error: 'python3 -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
            exit 2
        }
    fi
    echo "$versions" >"$venv/constraints.txt"
    echo "installing (a few minutes and about 3 GB the first time)"
    # torch first: its exact version has a CPU build, which later packages then use. Without wheel, pip builds
    # DeepSpeed by a deprecated method and warns.
    "$python" -m pip install --quiet --disable-pip-version-check -c "$venv/constraints.txt" torch numpy wheel
    "$python" -m pip install --quiet --disable-pip-version-check -c "$venv/constraints.txt" -e ".[$extras]"
    echo "$digest" >"$stamp"
}
