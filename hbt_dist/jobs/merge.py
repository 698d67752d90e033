"""Merge models, trained models of runs, and checkpoints into one model folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from hbt_dist import __version__
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, check_new_folder, write_json
from hbt_dist.models.card import TAGS, USAGE, base_metadata, header
from hbt_dist.models.files import read_json
from hbt_dist.models.folders import SETTINGS_FILE
from hbt_dist.models.merging import Method, Source, check_folder, check_mergeable, merge_models
from hbt_dist.training.checkpoints.export import export_checkpoint
from hbt_dist.training.checkpoints.manifest import MANIFEST
from hbt_dist.training.run_folder import RunFolder


def merge_job(models: Sequence[Path], weights: str | None, output: Path, method: Method) -> None:
    """Write the merged model.

    Args:
        models: model folders, folders of runs (their trained model), checkpoints of runs.
        weights: numbers or fractions, separated by commas, in the order of the models; None: equal weights.
        output: the new model folder.
        method: average, or slerp of two models.

    Raises:
        UserError: weights or models cannot be used, or models differ in more than their weights.
    """
    shares = parse_weights(weights, len(models), method)
    check_new_folder(output)
    with tempfile.TemporaryDirectory(prefix=".hbt-merge-", dir=_above(output)) as temporary:
        checkpoints = [path for path in models if not _is_model(path)]
        folders = {path: _model_of(path) for path in models if _is_model(path)}
        for path, folder in folders.items():
            check_folder(folder, str(path))
        for number, path in enumerate(checkpoints):
            folders[path] = Path(temporary) / str(number)
            export_checkpoint(path, folders[path])
        sources = [
            Source(str(path), folders[path], share) for path, share in zip(models, shares, strict=True)
        ]
        check_mergeable(sources)
        _write(sources, output, method)


def parse_weights(weights: str | None, count: int, method: Method) -> list[Fraction]:
    """Return one weight per model, with the sum 1.

    Raises:
        UserError: too few or too many models, a weight is not a number or negative, or the sum is not 1.
    """
    if count < 2 or (method == "slerp" and count != 2):
        expected = "two models" if method == "slerp" else "two or more models"
        remedy = "name two, or use --method average" if method == "slerp" else "name the models to merge"
        raise UserError("merge", f"expected {expected}, got {count}", remedy)
    if weights is None:
        return [Fraction(1, count)] * count
    try:
        shares = [Fraction(part.strip()) for part in weights.split(",")]
    except (ValueError, ZeroDivisionError):
        raise UserError(
            "--weights", f"expected numbers such as 0.5,0.5 or 1/3,2/3, got {weights!r}"
        ) from None
    equal = ",".join([str(Fraction(1, count))] * count)
    if len(shares) != count:
        problem = f"expected a weight for each of {count} models, got {len(shares)}"
        raise UserError("--weights", problem, f"for equal weights: --weights {equal}")
    if min(shares) < 0:
        raise UserError("--weights", f"expected weights of 0 or more, got {float(min(shares)):g}")
    if (total := sum(shares)) != 1:
        scaled = ",".join(str(share / total) for share in shares) if total else equal
        raise UserError(
            "--weights",
            f"expected weights whose sum is 1, got {float(total):g}",
            f"for these proportions: --weights {scaled}",
        )
    return shares


def _above(output: Path) -> Path:
    """Return the nearest folder above the output that exists: exported checkpoints need space on its disk."""
    return next(path for path in output.absolute().parents if path.exists())


def _is_model(path: Path) -> bool:
    """Return whether a path is used as it is: a checkpoint is exported first."""
    return not (path / MANIFEST).is_file()


def _model_of(path: Path) -> Path:
    """Return the model folder of a run, or the path itself if it is not a run's folder."""
    run = RunFolder(path)
    if not path.is_dir():
        raise UserError(str(path), "no such folder", "give a model folder, a run's folder or a checkpoint")
    if not run.run_file.is_file():
        return path
    if not run.model.is_dir():
        raise UserError(
            str(path),
            "is the folder of a run that has no trained model yet",
            f"train it to its end, or name checkpoints: {run.checkpoints}/step-...",
        )
    return run.model


def _write(sources: Sequence[Source], output: Path, method: Method) -> None:
    records = [source.facts() for source in sources]
    languages = sorted({code for record in records for code in record["training"].get("languages", ())})
    facts = {"languages": languages, "merged": {"method": method, "models": records}}
    settings = read_json(sources[0].folder / SETTINGS_FILE)
    with atomic_folder(output) as temporary:
        merge_models(sources, temporary, method)
        write_json(temporary / SETTINGS_FILE, {"format": 1, **settings, "training": facts}, indent=2)
        (temporary / "README.md").write_text(_card(sources, records, languages, output.name, method), "utf-8")
        if output.is_dir():
            output.rmdir()


def _card(
    sources: Sequence[Source],
    records: Sequence[dict[str, Any]],
    languages: list[str],
    name: str,
    method: Method,
) -> str:
    bases = [base_metadata(str(source.folder)) for source in sources]
    common = {key: value for key, value in bases[0].items() if all(base.get(key) == value for base in bases)}
    rows = "\n".join(
        f"| `{record['source']}` | {record['weight']} | {record['training'].get('steps', '')} "
        f"| `{record['sha256'].get('model.safetensors', '')[:16]}` |"
        for record in records
    )
    how = {"average": "the weighted average", "slerp": "the spherical interpolation (slerp)"}[method]
    return f"""{header(languages, common, tags=[*TAGS, "merge"])}

# {name}

A bi-encoder for retrieval: {how} of {len(sources)} models, merged by hbt_dist {__version__}.

| model | weight | steps | SHA-256 of model.safetensors |
|---|---|---|---|
{rows}

{USAGE}
"""
