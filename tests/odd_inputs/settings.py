"""Settings in YAML, overrides on the command line, search and study files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.odd_inputs.case import Case, Content, rows, run_file

ALL = {"examples": 6, "languages": "en fi"}


def inspect(run: Content, *overrides: str, name: str = "run.yaml") -> Case:
    return Case(["data", "inspect", name, "--json", *overrides], {name: run, "train.jsonl": rows()})


TEXT = yaml.safe_dump(run_file(), sort_keys=False)


def line_of(key: str, text: str = TEXT) -> int:
    """The line of a key in a run file."""
    return next(
        number for number, line in enumerate(text.splitlines(), 1) if line.strip("- ").startswith(f"{key}:")
    )


def replaced(key: str, value: str) -> str:
    """The run file with one line `key: value` changed."""
    lines = TEXT.splitlines()
    number = line_of(key) - 1
    lines[number] = lines[number].split(":")[0] + f": {value}"
    return "\n".join(lines) + "\n"


def texts() -> Iterator[tuple[str, Case]]:
    """Run files as texts."""
    for name, content in {
        "mark": b"\xef\xbb\xbf" + TEXT.encode(),
        "crlf": TEXT.replace("\n", "\r\n"),
        "cr": TEXT.replace("\n", "\r"),
        "document-start": "---\n" + TEXT,
        "document-end": TEXT + "...\n",
        "directive": "%YAML 1.2\n---\n" + TEXT,
        "comment": "# x: y\n" + TEXT,
        "json": json.dumps(run_file()),
        "json-pretty": json.dumps(run_file(), indent=2),
        "anchors": TEXT.replace("mine", "&n mine", 1).replace("- name: mine", "- name: *n"),
        "quoted-keys": TEXT.replace("name:", '"name":'),
        "blank-lines": TEXT.replace("\n", "\n\n"),
    }.items():
        yield f"text-{name}", inspect(content).gives(given=6, **ALL)
    for name, (content, words) in {
        "utf16": (TEXT.encode("utf-16"), "UTF-8"),
        "latin-1": ("# ä\n".encode("latin-1") + TEXT.encode(), "UTF-8"),
        "nul": (TEXT + "\0", "YAML|character"),
        "control": (TEXT.replace("mine", "mi\ane", 1), "YAML|character"),
        "tabs": (TEXT.replace("  ", "\t"), "YAML|tab"),
        "two-documents": (TEXT + "---\n" + TEXT, "document"),
        "number": ("5\n", "settings"),
        "text": ("train\n", "settings"),
        "null": ("~\n", "nothing"),
        "comments-only": ("# a\n# b\n", "nothing"),
        "unclosed-quote": (TEXT.replace("mine", "'mine", 1), "YAML"),
        "unknown-alias": (TEXT.replace("mine", "*mine", 1), "YAML|alias"),
        "unknown-tag": (TEXT.replace("mine", "!env mine", 1), "YAML|tag"),
        "python-tag": (TEXT.replace("mine", "!!python/name:os.system", 1), "YAML|tag"),
        "bad-indent": (TEXT.replace("  cache_dir", "   cache_dir"), "YAML|unknown|indent"),
        "missing-space": (TEXT.replace("name: mine", "name:mine", 1), "YAML|name"),
        "key-twice": (
            TEXT + "seed: 1\nseed: 2\n",
            "seed",
        ),
        "inner-key-twice": (TEXT.replace("steps: 2", "steps: 2\n  steps: 3"), "steps"),
        "number-key": (TEXT + "5: x\n", "5"),
        "null-key": (TEXT + "~: x\n", "unknown|~|null|None"),
        "list-key": (TEXT + "[a, b]: x\n", "YAML|key|unknown"),
        "merge": (TEXT + "<<: {odd: 1}\n", "odd"),
        "bomb": ("a: &a [x, x, x]\nb: &b [*a, *a, *a]\n" + TEXT, "a|b"),
        "recursive": ("a: &a [*a]\n" + TEXT, "a|YAML"),
        "deep": ("a: " + "[" * 3_000 + "]" * 3_000 + "\n" + TEXT, "a|YAML|deep"),
        "toml": ("name = 'mine'\n[data]\n", "YAML|settings"),
        "smart-quotes": (TEXT.replace("mine", "“mine”", 1), "name"),
        "html": ("<html>404: Not Found</html>", "settings|YAML"),
    }.items():
        yield f"text-{name}", inspect(content).fails("run.yaml", words)
    yield "ending-json", inspect(json.dumps(run_file()), name="run.json").gives(given=6, **ALL)
    yield "ending-none", inspect(TEXT, name="run").gives(given=6, **ALL)
    yield "merge-key", inspect("x: &x {steps: 2}\n" + TEXT).fails("run.yaml line 1", "unknown key|x")


def values() -> Iterator[tuple[str, Case]]:
    """Values as people write them in YAML 1.1."""
    for key, value, words in (
        ("name", "5", "text"),
        ("name", "yes", "text|true"),
        ("name", "2024-01-01", "text|date"),
        ("name", "1:30", "text|number"),
        ("name", "", "text|missing|null"),
        ("name", "a/b", "name|match|letters"),
        ("name", "~", "text|null"),
        ("name", "'..'", "name|match|letters"),
        ("name", "[mine]", "text"),
        ("name", "ä", "name|match|letters"),
        ("output_dir", "5", "text"),
        ("output_dir", "no", "text|false"),
        ("output_dir", "", "text|null"),
        ("global_batch_size", "2.5", "whole number"),
        ("global_batch_size", "'two'", "whole number"),
        ("global_batch_size", "-0", "1"),
        ("global_batch_size", "1e3", "whole number|batch"),
        ("global_batch_size", "yes", "whole number|true"),
        ("global_batch_size", ".inf", "whole number|finite"),
        ("global_batch_size", ".nan", "whole number|finite|nan"),
        ("global_batch_size", "[2]", "whole number"),
        ("global_batch_size", "1_000", "1,?000|rows|groups|lower"),
        ("global_batch_size", "99999999999999999999", "whole number|rows|groups|lower|large"),
        ("global_batch_size", "2k", "whole number"),
        ("alpha", ".nan", "alpha|finite"),
        ("alpha", "-.inf", "alpha"),
        ("alpha", "1.0001", "1"),
        ("alpha", "50%", "number"),
        ("alpha", "'0,5'", "number"),
        ("alpha", "1/2", "number"),
        ("alpha", "on", "number|true"),
        ("alpha", "{}", "schedule|alpha"),
        ("alpha", "[0.5]", "number"),
        ("alpha", "{schedule: linear, start: 0, end: 2, over_steps: 2}", "alpha|1"),
        ("steps", "0", "greater than 0"),
        ("steps", "2.0001", "whole number"),
        ("steps", "all", "whole number"),
        ("steps", "-1", "1"),
        ("steps", "true", "whole number|true"),
        ("format", "JSONL", "jsonl"),
        ("format", "json", "jsonl"),
        ("format", "", "format|text|null"),
        ("format", "no", "format|text|false"),
        ("format", "nowhere:read", "nowhere"),
        ("path", "", "path"),
        ("path", "5", "text"),
        ("path", "[train.jsonl]", "text"),
        ("path", "~", "path"),
        ("cache_dir", "''", "cache_dir|character"),
        ("vocabulary_size", "99", "100"),
        ("vocabulary_size", "1.5e3", "whole number"),
        ("model_type", "nowhere", "nowhere"),
    ):
        case = inspect(replaced(key, value))
        name = f"value-{key}-{value}"
        if key == "model_type":
            continue  # inspect reads no model
        yield name, case.fails(rf"run.yaml line {line_of(key)}|run.yaml|batches\S*|data\S*", words)
    for key, value in (
        ("global_batch_size", "'2'"),
        ("global_batch_size", "2.0"),
        ("global_batch_size", "0x2"),
        ("global_batch_size", "0o2"),
        ("alpha", "-0.0"),
        ("alpha", "'0.5'"),
        ("alpha", "5e-1"),
        ("alpha", ".5"),
        ("steps", "+2"),
        ("steps", "010"),
        ("alpha", "1"),
        ("path", "./train.jsonl"),
        ("path", "'train.jsonl'"),
        ("name", "a.b-c_1"),
        ("name", "'5'"),
        ("name", "0x"),
        ("cache_dir", "'kä che'"),
    ):
        case = inspect(replaced(key, value))
        refused = value == "0o2"
        yield (
            f"right-{key}-{value}",
            (case.fails("run.yaml", "whole number") if refused else case.gives(given=6, **ALL)),
        )
    for key, value in {
        "seed": -1,
        "odd": 1,
        "Data": {},
        "batch_size": 3,
        "epochs": 3,
        "learning_rate": 1,
        "languages": ["en"],
        "data.sources.0.columns.odd": 1,
        "model.text.odd": 1,
        "optimizer.lr": 1e-4,
        "batches.pairs.en": 1,
        "evaluation.benchmarks.0.name": "odd",
    }.items():
        case = inspect(TEXT, f"{key}={json.dumps(value)}")
        yield (
            f"key-{key}",
            case.fails(r"run.yaml, override|override|batches", key.rsplit(".", maxsplit=1)[-1]),
        )
    case = inspect(TEXT, "training.epochs=3")  # needs the batches and the data: a mistake of the whole file
    yield "key-training.epochs", case.fails("run.yaml", "training.epochs: expected training.steps")


def overrides() -> Iterator[tuple[str, Case]]:
    """Overrides as shells pass them."""
    for name, item in {
        "no-value": "batches.alpha",
        "no-key": "=0.5",
        "space": "batches.alpha = 0.5x",
        "colon": "batches.alpha:0.5",
        "dashes": "seed==1",
        "open": "data.languages=[en",
        "quote": "data.languages='[en",
        "empty-value": "batches.global_batch_size=",
        "dots": "batches..alpha=1",
        "dot-behind": "batches.alpha.=1",
        "dot-before": ".batches.alpha=1",
        "through-a-text": "name.x=1",
        "index": "data.sources.1.path=x",
        "minus-index": "data.sources.-1.path=x",
        "name-in-a-list": "data.sources.mine.path=x",
        "tab": "batches.alpha=\t",
        "upper": "BATCHES.ALPHA=1",
        "tag": "name=!!python/name:os.system",
        "object": "batches=1",
        "nul": "name=a\0b",
        "surrogate": "name=\udcff",
        "star": "batches.*=1",
        "two-in-one": "batches.alpha=1 training.steps=3",
        "unicode-minus": "seed=−1",
        "smart-quotes": "name=“x”",
    }.items():
        yield f"override-{name}", inspect(TEXT, item).fails(".*override")
    for name, items in {
        "space-before-a-value": ["batches.alpha= 0.25"],
        "twice": ["batches.alpha=2", "batches.alpha=0.5"],
        "null": ["batches.code_switching=null"],
        "list-entry": ["data.sources.0.name=other"],
        "quoted": ["name='x'"],
        "whole-list": ["data.sources=[{name: x, format: jsonl, path: train.jsonl}]"],
        "equals-inside": ["data.sources.0.path=train.jsonl", "output_dir=a=b"],
        "schedule": ["batches.alpha={schedule: steps, values: {0: 1.0, 1: 0.5}}"],
        "new-block": ["training.threads_per_worker=1"],
    }.items():
        yield f"override-{name}", inspect(TEXT, *items).gives(given=6, **ALL)
    for name, arguments in {
        "step-minus": ["data", "inspect", "run.yaml", "--step", "-1"],
        "step-word": ["data", "inspect", "run.yaml", "--step", "x"],
        "unknown-option": ["data", "inspect", "run.yaml", "--odd"],
        "launcher": ["train", "run.yaml", "--launcher", "slurm"],
    }.items():
        yield f"usage-{name}", Case(arguments, {"run.yaml": TEXT}).fails("usage")


SEARCH: dict[str, Any] = {
    "name": "s",
    "output_dir": "out",
    "run": "quickstart",
    "overrides": ["evaluation.benchmarks.0.variant=test"],
    "space": {"batches.alpha": {"range": [0, 1, 0.5]}},
    "benchmark": {"name": "sample", "variant": "dev"},
}
STUDY: dict[str, Any] = {
    "name": "s",
    "output_dir": "out",
    "question": "?",
    "run": "quickstart",
    "baseline": "a",
    "methods": {"a": {}, "b": {"overrides": {"batches.alpha": 1}}},
    "benchmarks": [{"name": "sample"}],
}


def searches() -> Iterator[tuple[str, Case]]:
    """Search and study files, and overrides of them."""

    def search(*items: str, **changes: Any) -> Case:
        return Case(["search", "search.yaml", "--dry-run", *items], {"search.yaml": {**SEARCH, **changes}})

    def study(*items: str, **changes: Any) -> Case:
        return Case(["study", "study.yaml", "--dry-run", *items], {"study.yaml": {**STUDY, **changes}})

    yield "search", search().gives("3|alpha")
    yield "search-dotted-space", search("space.batches.alpha={choice: [0, 1]}").gives("2|alpha")
    yield (
        "search-dotted-list",
        search("space.batches.alpha.choice=[0, 1]", space={"batches.alpha": {"choice": [1]}}).gives(
            "2|alpha"
        ),
    )
    for name, space in {
        "not-a-key": {"alpha": {"choice": [0, 1]}},
        "no-form": {"batches.alpha": {}},
        "two-forms": {"batches.alpha": {"choice": [1], "range": [0, 1, 1]}},
        "bare-list": {"batches.alpha": [0, 1]},
        "number": {"batches.alpha": 1},
        "empty-choice": {"batches.alpha": {"choice": []}},
        "nan": {"batches.alpha": {"choice": [float("nan")]}},
        "text": {"batches.alpha": {"choice": ["half"]}},
        "zero-step": {"batches.alpha": {"range": [0, 1, 0]}},
        "continuous-grid": {"batches.alpha": {"uniform": [0, 1]}},
        "list": ["batches.alpha"],
        "seed": {"seed": {"choice": [0, 1]}},
        "huge": {"batches.alpha": {"range": [0, 1, 1e-6]}},
        "through-a-text": {"name.x": {"choice": [1]}},
        "false-key": {False: {"choice": [1]}},
        "outside": {"batches.alpha": {"choice": [0, 2]}},
    }.items():
        yield f"search-space-{name}", search(space=space).fails(".*search.yaml|.*space|.*run|.*quickstart")
    for key, value in {
        "seeds": [0, "x"],
        "sampler": {"kind": "grid", "points": 3},
        "objectives": [],
        "run": "nowhere",
        "overrides": ["alpha"],
        "benchmark": {"name": "jsonl", "data_dir": "nowhere"},
        "max_concurrent": 0,
        "trackers": ["odd"],
        "trial_resources": {"CPU": 0},
    }.items():
        yield f"search-{key}", search(**{key: value}).fails(".*")
    yield "study", study().gives("a|b")
    for key, value in {
        "baseline": None,
        "methods": {"a": {"overrides": {"odd": 1}}, "b": {}},
        "seeds": [],
        "run": 5,
        "question": None,
        "benchmarks": [{"name": "sample"}, {"name": "sample"}],
        "primary": ["x"],
    }.items():
        yield f"study-{key}", study(**{key: value}).fails(".*study.yaml|.*benchmark|.*run|.*quickstart|.*")
    methods = {"a": {}, "b": {"overrides": ["batches.alpha=1"]}}
    yield (
        "study-overrides-as-a-list",
        study(methods=methods).fails("study.yaml line", "overrides", "block of keys"),
    )
    yield (
        "study-no-method",
        study(methods={"a": {}, False: {}}, baseline="a").fails("study.yaml", "text|false|two|2"),
    )
    yield "study-file-missing", Case(["study", "nowhere.yaml"]).fails("nowhere.yaml", "no such file")
    yield (
        "search-of-a-run-file",
        Case(["search", "run.yaml", "--dry-run"], {"run.yaml": TEXT}).fails("run.yaml"),
    )
    yield (
        "run-of-a-search-file",
        Case(["data", "inspect", "search.yaml"], {"search.yaml": SEARCH}).fails("search.yaml"),
    )


CASES = dict([*texts(), *values(), *overrides(), *searches()])
