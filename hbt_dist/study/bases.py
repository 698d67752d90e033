"""A study is continued with the runs that it began with: its file names the base run by path alone.

Every training has the whole run that it was made from in its folder (`plan.json`); what the methods are now
is compared with that, before anything is trained or measured.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.config.difference import changed_settings, first_of
from hbt_dist.config.messages import explain
from hbt_dist.jobs.search import CHANGES_NO_FIGURE
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.study.study import Study, trials_of
from hbt_dist.training.run_folder import RunFolder


def check_bases(study: Study, folder: SearchFolder) -> None:
    """Refuse to continue a study whose trainings so far were made from other runs than its methods are now.

    A training that failed before its first step has left nothing that could be mixed up.

    Raises:
        UserError: it names the training and the settings that differ.
    """
    for name, trials in trials_of(study.file, folder).items():
        for trial in trials:
            evaluated = (trial.folder / "evaluation").is_dir()  # a model may have been removed since
            if not evaluated and not RunFolder(trial.folder / "run").has_begun():
                continue
            differences = changed_settings(
                _run_of(trial).plain(),
                study.runs[name].plain(),
                may_change=(*CHANGES_NO_FIGURE, "training.checkpoint_every"),
                may_move=("made",),
            )
            if differences:
                raise UserError(
                    str(folder.root),
                    f"{name} with seed {trial.seed} was trained from another run ({first_of(differences)})",
                    f"put {study.bases[name].file} back as it was, or choose another output_dir; a training "
                    f"whose folder is\nremoved ({trial.folder}) is made again",
                )


def _run_of(trial: Trial) -> RunFile:
    """The run that a training was made from."""
    file = trial.folder / "plan.json"
    try:
        plan: Any = json.loads(file.read_text("utf-8"))
        return RunFile.recorded(plan["run"])
    except ValidationError as error:
        raise explain(error, RunFile, str(file), {}, {}) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            str(file), "does not say what was trained", f"remove {trial.folder}: it is trained again"
        ) from None
