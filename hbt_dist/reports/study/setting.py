"""Write the setting of a study's report: methods, start model, steps, batch, rate, data, versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.files import read_json_lines
from hbt_dist.pages.document import Document
from hbt_dist.search.folder import SearchFolder, Trial, read_object
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import OVERLAPS, trials_of

#: Name of a setting for people -> its value in a resolved run file.
_SETTINGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "start model": lambda run: run["model"]["name_or_path"] or "random weights",
    "steps": lambda run: f"{run['training']['steps']:,}",
    "batch size": lambda run: f"{run['batches']['global_batch_size']:,} questions, each with its answer",
    "learning rate": lambda run: f"{run['optimizer']['learning_rate']:g}",
    "temperature": lambda run: run["loss"]["temperature"],
    "longest question": lambda run: _length(run, "max_question_tokens"),
    "longest answer": lambda run: _length(run, "max_passage_tokens"),
    "workers": lambda run: run["workers"]["num_workers"],
}


def add_setting(document: Document, study: StudyFile, folder: SearchFolder) -> None:
    """Add the methods, the settings of their trainings, and what the study has done so far."""
    document.heading("Setting")
    by_method = trials_of(study, folder)
    changes = {
        name: [f"{key} = {value}" for key, value in {**method.overrides, **method.scoring}.items()]
        + _switched(by_method.get(name, []))
        for name, method in study.methods.items()
    }
    rows = [
        [
            name + (" (baseline)" if name == study.baseline else ""),
            (f"models of {method.trained_as}; " if method.trained_as else "")
            + (", ".join(changes[name]) or "-"),
            method.about or "-",
        ]
        for name, method in study.methods.items()
    ]
    document.table("Methods", ["method", "differs in", "what it is"], rows)
    facts = _training_facts(by_method)
    if facts:
        document.facts(facts)
    trials = [trial for group in by_method.values() for trial in group]
    records = [trial.record() or {} for trial in trials]
    failed = [
        trial.name for trial, record in zip(trials, records, strict=True) if record.get("status") == "failed"
    ]
    hours = sum(record.get("worker_seconds", 0.0) for record in records) / 3600
    ended = sum(record.get("status") == "finished" for record in records)
    environment = environment_facts()
    document.items(
        [
            f"{ended} of {len(trials)} trainings ended, seeds {', '.join(map(str, study.seeds))}; "
            f"{hours:.2f} worker hours without the evaluations"
            + (f"; failed: {', '.join(failed)}" if failed else ""),
            "training data excludes texts of the benchmarks"
            if study.check_leaks
            else "training data was NOT checked for texts of the benchmarks",
            *_overlap_lines(study, folder),
            f"hbt_dist {environment['hbt_dist']}, "
            + ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items())),
        ]
    )


def _training_facts(by_method: Mapping[str, Sequence[Trial]]) -> dict[str, str]:
    """Return the settings of the trainings; where methods differ, each value with its methods."""
    plans = {name: read_object(trials[0].folder / "plan.json", "") for name, trials in by_method.items()}
    runs = {name: plan["run"] for name, plan in plans.items() if plan}
    facts = {}
    for title, value_of in _SETTINGS.items() if runs else ():
        methods: dict[str, list[str]] = {}
        for name, run in runs.items():
            methods.setdefault(str(value_of(run)), []).append(name)
        values = [f"{value} ({', '.join(names)})" for value, names in methods.items()]
        facts[title] = "; ".join(values) if len(values) > 1 else next(iter(methods))
    return facts


def _length(run: dict[str, Any], key: str) -> str:
    tokens = run["model"]["text"].get(key)
    return "as the start model sets it" if tokens is None else f"{tokens:,} tokens"


def _switched(trials: Sequence[Trial]) -> list[str]:
    """Return the share of words that code-switching replaced, over all steps of a method's trainings."""
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        for line in read_json_lines(trial.folder / "run" / "metrics.jsonl"):
            for role, step in line.get("code_switching", {}).items():
                count = counts.setdefault(role, Counter())
                count.update({key: step[key] for key in ("switched", "words")})
    return [
        f"{count['switched'] / count['words']:.1%} of the words of {role}s were switched"
        for role, count in counts.items()
        if count["words"]
    ]


def _overlap_lines(study: StudyFile, folder: SearchFolder) -> list[str]:
    file = folder.root / OVERLAPS
    counted = json.loads(file.read_text("utf-8"))["counts"] if file.is_file() else {}
    repeats = {
        label: ", ".join(f"{count:,} examples of {name}" for name, count in counts.items() if count)
        for label, counts in counted.items()
    }
    return [
        f"{label} was added after the training: {repeats[label] or 'no training text'} repeats it"
        for label in (benchmark.label for benchmark in study.later_benchmarks)
        if label in repeats
    ]
