"""Run a module on the pretended GPU, as `python -m MODULE ARGUMENTS` would.

python -m tests.benchmarks.pretended_python -m hbt_dist.cli.main train quickstart
"""

from __future__ import annotations

import os
import runpy
import sys

from tests.pretended_gpu import install

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    install()
    assert sys.argv[1] == "-m"
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
