"""The knee point as a run file that `hbt-dist train` takes."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hbt_dist.analysis.overview import number, shown
from hbt_dist.analysis.search_results import SearchResults
from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile


def best_run_text(results: SearchResults, found: dict[str, Any]) -> str:
    """The text of best.yaml: the search's base run with the values of one candidate.

    Its output folder is runs/NAME-best, so that training it does not meet the search's own runs. The number
    of steps stays that of the search, because a schedule of the learning rate depends on it; a comment
    names the candidate's step.

    Args:
        found: a candidate, as `hbt_dist.analysis.overview.candidate` gives it.

    Raises:
        UserError: the search's base.yaml is missing or no run file of this version, or does not take the
            values.
    """
    from hbt_dist.search.space import Base

    file = str(results.folder / "base.yaml")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", results.name).strip("-.") or "search"
    base = Base.load(file, ())
    run = base.run(found["parameters"], location=file, name=f"{name}-best")
    data = run.model_dump(mode="json", exclude_unset=True) | {"output_dir": f"runs/{name}-best"}
    RunFile.model_validate(data)
    values = ", ".join(f"{key} {number(value['mean'])}" for key, value in found["objectives"].items())
    lines = [
        f"Knee point of the search {results.name}: point {found['point']}, checkpoint after step "
        f"{found['step']}, mean of {found['num_seeds']} seed(s):",
        values,
        *(f"{key}: {shown(value)}" for key, value in found["parameters"].items()),
    ]
    if found["step"] != run.training.steps:
        lines.append(f"The run goes on to step {run.training.steps}; the knee is a checkpoint on its way.")
    comment = "".join(f"# {part}\n" for line in lines for part in line.splitlines())
    return comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def try_best_run(results: SearchResults, found: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """The text of best.yaml, or None and the reason why there is none."""
    if found is None:
        return None, "best.yaml is not written: no checkpoint has all objectives"
    try:
        return best_run_text(results, found), None
    except UserError as error:
        return None, f"best.yaml is not written: {error.location}: {error.problem}"
