"""Write the knee point as a run file for `hbt-dist train`."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hbt_dist.analysis.overview import objective_text, value_text
from hbt_dist.analysis.results import SearchResults
from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile
from hbt_dist.search.space import Base


def best_run_text(results: SearchResults, candidate: dict[str, Any]) -> str:
    """Return the text of best.yaml: the search's base run with the values of one candidate.

    Its output folder is runs/NAME-best, apart from the search's runs. The number of steps stays that of the
    search, because a schedule of the learning rate depends on it; a comment names the candidate's step.

    Args:
        candidate: from `hbt_dist.analysis.overview.describe_candidate`.

    Raises:
        UserError: the search's base.yaml is missing, is not a run file of this version, or does not accept
            the values.
    """
    file = str(results.folder / "base.yaml")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", results.name).strip("-.") or "search"
    run = Base.load(file, ()).run(candidate["parameters"], location=file, name=f"{name}-best")
    data = run.model_dump(mode="json", exclude_unset=True) | {"output_dir": f"runs/{name}-best"}
    RunFile.model_validate(data)
    lines = [
        f"Knee point of the search {results.name}: point {candidate['point']}, checkpoint after step "
        f"{candidate['step']}, mean of {candidate['num_seeds']} seed(s):",
        ", ".join(
            f"{name} {objective_text(name, value['mean'])}" for name, value in candidate["objectives"].items()
        ),
        *(f"{key}: {value_text(value)}" for key, value in candidate["parameters"].items()),
    ]
    if candidate["step"] != run.training.steps:
        lines.append(f"The run continues to step {run.training.steps}; the knee is one of its checkpoints.")
    comment = "".join(f"# {part}\n" for line in lines for part in line.splitlines())
    return comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def try_best_run(results: SearchResults, candidate: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """Return the text of best.yaml, or None and the reason."""
    if candidate is None:
        return None, "best.yaml is not written: no checkpoint has all objectives"
    try:
        return best_run_text(results, candidate), None
    except UserError as error:
        return None, f"best.yaml is not written: {error.location}: {error.problem}"
