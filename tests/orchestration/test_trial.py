"""A trial runs two threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hbt_dist.config import RunFile
from hbt_dist.orchestration.trial import write_plan
from hbt_dist.search.folder import Trial
from tests.helpers.runs import tiny_run

_PROGRAM = """
import sys
from pathlib import Path

from hbt_dist.orchestration import train, trial

def training(*_, **__):
    print("transformers is ready:", hasattr(sys.modules.get("transformers"), "AutoTokenizer"))

train.train_on_ray = training
trial.run_trial(Path(sys.argv[1]), lambda figures: None)
"""


def test_transformers_is_imported_before_there_are_two_threads(tmp_path: Path) -> None:
    """Imported in both at once it is incomplete in one; our own process has it already, so a new one."""
    run = RunFile.model_validate(tiny_run(tmp_path / "trial" / "run", tmp_path / "cache"))
    write_plan(Trial(tmp_path / "trial", 0, 0, {}), run, None)
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "trial")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "transformers is ready: True" in done.stdout, done.stderr
    assert not (tmp_path / "trial" / "error.txt").exists()
