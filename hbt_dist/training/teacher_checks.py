"""Check the frozen models of a run: that they exist, fit the trained model, and are those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.models.known_width import known_width
from hbt_dist.models.loading import check_present, check_source
from hbt_dist.models.settings import ModelSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.teachers import ROLES_OF_TARGETS, Teachers


def check_models(run: RunFile) -> None:
    """Refuse a start model that is a path to nothing, and see `check_teachers`.

    Raises:
        UserError: names the key.
    """
    if run.model.name_or_path is not None:
        check_present(run.model.name_or_path, "model.name_or_path")
    check_teachers(run)


def check_teachers(run: RunFile) -> None:
    """Refuse a frozen model that does not exist, is damaged or too wide, as far as small files show it.

    Raises:
        UserError: names the key.
    """
    for name in dict.fromkeys(run.loss.teachers().values()):
        try:
            check_source(run.teachers[name].name_or_path)
        except UserError as error:
            location = f"teachers.{name}.name_or_path: {error.location}"
            raise UserError(location, error.problem, error.remedy) from None
    if run.loss.targets is None:
        return
    teacher = run.teachers[run.loss.targets.teacher]
    width = run.model.text.get("width") or known_width(run.model)
    its_width = teacher.text.get("width") or known_width(ModelSettings(name_or_path=teacher.name_or_path))
    if width is not None and its_width is not None:
        _check_width(run.loss.targets.teacher, width, its_width)


def check_target_width(run: RunFile, teachers: Teachers, width: int) -> None:
    """Refuse a teacher whose vectors are not as wide as the trained model's.

    Raises:
        UserError: names both widths.
    """
    if run.loss.targets is not None:
        name = run.loss.targets.teacher
        _check_width(name, width, teachers.readers[name].width)


def _check_width(name: str, width: int, its_width: int) -> None:
    if its_width == width:
        return
    remedy = f"name a teacher with {width} values, or set model.text: {{width: {its_width}}}"
    if its_width > width:
        remedy = (
            f"name a teacher with {width} values; one that was trained to be cut (Matryoshka) needs\n"
            f"teachers.{name}.text: {{width: {width}}}"
        )
    raise UserError(
        "loss.targets.teacher",
        f"expected vectors of {width} values as of the trained model, got {its_width} from teachers.{name}",
        remedy,
    )


def check_target_language(run: RunFile, corpus: Corpus) -> None:
    """Refuse a target language in which the corpus has no text that could be a target.

    Raises:
        UserError: names the languages of the corpus.
    """
    targets = run.loss.targets
    if targets is None or targets.language is None:
        return
    if targets.language not in corpus.languages or not any(
        with_target for with_target, _ in _counts(corpus, targets.on, targets.language).values()
    ):
        raise UserError(
            "loss.targets.language",
            f"expected a language of the data ({', '.join(corpus.languages)}), got {targets.language}, "
            f"in which no text is",
            f"add {targets.language} to the languages of a source in data.sources (batches.languages still "
            "decides\nwhich languages are drawn), or name another language",
        )


def untargeted_texts(run: RunFile, corpus: Corpus) -> list[str]:
    """Return a line for each role with texts that have no target."""
    targets = run.loss.targets
    if targets is None or targets.language is None:
        return []
    return [
        f"{num_rows - num_targets:,} of {num_rows:,} {role}s have no text in {targets.language}: "
        "loss.targets leaves them out"
        for role, (num_targets, num_rows) in _counts(corpus, targets.on, targets.language).items()
        if num_targets < num_rows
    ]


def _counts(corpus: Corpus, on: str, code: str) -> dict[Role, tuple[int, int]]:
    """Return by role the rows with a text in a language, and all rows."""
    language = corpus.language_index(code)
    tables = {
        "question": (corpus.example_cell, corpus.cell_questions),
        "passage": (corpus.passage_set, corpus.set_languages),
    }
    counts: dict[Role, tuple[int, int]] = {}
    for role in ROLES_OF_TARGETS[on]:
        row_types, languages = tables[role]
        rows_of_types = np.bincount(row_types, minlength=len(languages))
        counts[role] = int(rows_of_types[languages[:, language]].sum()), int(rows_of_types.sum())
    return counts


def check_same_teachers(
    run: RunFile, step: int, recorded: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    """Refuse a frozen model that is not the one of a checkpoint.

    Args:
        run: of this start.
        step: of the checkpoint.
        recorded: digests that the checkpoint records, by name.
        digests: of this start.

    Raises:
        UserError: names the teacher.
    """
    for name, digest in digests.items():
        if recorded.get(name, digest) != digest:
            raise UserError(
                f"teachers.{name}.name_or_path {run.teachers[name].name_or_path}",
                f"is not the model, or has not the precision, that the checkpoint of step {step} began with",
                "name that model, or choose another output_dir",
            )
