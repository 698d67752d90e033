"""Find the files that come with the package."""

from __future__ import annotations

from pathlib import Path

#: Run files of the package; `hbt-dist train quickstart` finds them by name.
RUN_FILES = Path(__file__).parents[1] / "run_files"
