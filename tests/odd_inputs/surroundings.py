"""Paths, environment variables, and launchers' leftovers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.odd_inputs.case import CANDIDATES, QUESTIONS, Case, Content, benchmark, rows, run_file, training

ALL = {"examples": 6, "languages": "en fi"}
MEASURED = {"questions": 2, "candidates": 4, "map": 0.75}


def paths() -> Iterator[tuple[str, Case]]:
    """Paths of sources."""
    for name in (
        "a b.jsonl",
        "ä ö 日本.jsonl",
        "a'b\".jsonl",
        "[x].jsonl",
        "a*b?.jsonl",
        "-dash.jsonl",
        "#hash.jsonl",
        "a=b.jsonl",
        "$HOME.jsonl",
        "%41.jsonl",
        "a;b&c.jsonl",
        "new\nline.jsonl",
        "x" * 200 + ".jsonl",
        "no_ending",
        "a.b.c.jsonl",
        "dir/../train.jsonl",
        "./train.jsonl",
        "train.jsonl/",
        ".hidden.jsonl",
        "nfd-e\u0301.jsonl",
        "a\\b.jsonl",
        "\u200bx.jsonl",
        "🐟.jsonl",
        "{language}.jsonl",
    ):
        case = training(rows(), path=name)
        if name.endswith("/train.jsonl") or name.endswith("/"):
            case = Case(case.arguments, {**case.files, "dir": Path.mkdir, "train.jsonl": rows()})
            case = Case(case.arguments, {k: v for k, v in case.files.items() if k != name})
        yield f"path-{name[:20]!r}", case.gives(given=6, **ALL)
    for name, path in {
        "missing": "nowhere.jsonl",
        "below-a-file": "train.jsonl/x",
        "empty-name": " ",
        "home-of-nobody": "~nobody_here/x",
        "url": "https://example.org/train.jsonl",
        "file-url": "file:///train.jsonl",
        "hub": "hf://datasets/a/b",
        "device": "/dev/null",
        "proc": "/proc/self/mem",
        "glob": "*.jsonl",
        "list": "train.jsonl,train.jsonl",
        "variable": "$PWD/train.jsonl",
        "nul": "a\0b",
        "long": "x" * 300,
        "backslashes": "C:\\data\\train.jsonl",
        "upper-case": "TRAIN.jsonl",
    }.items():
        files: Mapping[str, Content] = {
            "run.yaml": run_file(data__sources__0__path=path),
            "train.jsonl": rows(),
        }
        yield (
            f"path-{name}",
            Case(["data", "inspect", "run.yaml", "--json"], files).fails(
                ".*", "path|file|folder|jsonl|empty|read|name"
            ),
        )
    for name, write in {
        "loop": lambda path: path.symlink_to(path.name),
        "broken": lambda path: path.symlink_to("nowhere"),
        "pipe": os.mkfifo,
        "folder": lambda path: path.mkdir(),
    }.items():
        yield (
            f"path-is-a-{name}",
            training(write).fails("train.jsonl", "file|folder|jsonl|read|link|loop|pipe"),
        )
    yield (
        "path-is-a-link",
        training(lambda path: (path.with_name("x").write_bytes(b""), _link(path))).gives(given=6, **ALL),
    )
    yield (
        "path-at-home",
        training(rows(), path="home/train.jsonl")
        .beside(run_dot_yaml=run_file(data__sources__0__path="~/train.jsonl"))
        .within(HOME="home")
        .gives(given=6, **ALL),
    )
    for name in ("no such.yaml", "", ".", "run.yaml/", "quickstart.yaml", "quikstart", "a\0b", "-"):
        yield (
            f"run-{name!r}",
            Case(["data", "inspect", "--", name]).fails(".*", "run file|folder|name|path|file"),
        )
    for name, write in {
        "a-folder": Path.mkdir,
        "a-loop": lambda path: path.symlink_to(path.name),
        "a-pipe-none": lambda path: path.symlink_to("x"),
    }.items():
        yield f"run-is-{name}", Case(["data", "inspect", "run.yaml"], {"run.yaml": write}).fails("run.yaml")
    for name, write in {
        "a-file": lambda path: path.write_text("x"),
        "a-loop": lambda path: path.symlink_to(path.name),
    }.items():
        case = training(rows())
        yield f"cache-is-{name}", Case(case.arguments, {**case.files, "cache": write}).fails(".*cache")
    deep = training(rows(), "data.cache_dir=a/b/c/d/é ü")
    yield "cache-deep", deep.gives(given=6, **ALL)
    for name in ("bench é", "b'q", "-b", "bench\u3000x"):
        files = {f"{name}/questions.jsonl": QUESTIONS, f"{name}/candidates.jsonl": CANDIDATES}
        yield (
            f"benchmark-{name!r}",
            Case(
                [
                    "evaluate",
                    "--model",
                    "MODEL",
                    "--benchmark",
                    "jsonl",
                    f"--data-dir={name}",
                    "--output",
                    "out",
                    "--json",
                ],
                files,
            ).gives(given=2, **MEASURED),
        )
    for name in ("a b/ç", "out/", "./bench/../out", "new/deep/er"):
        case = benchmark()
        arguments = [argument if argument != "out" else name for argument in case.arguments]
        yield f"output-{name!r}", Case(arguments, case.files).gives('"map": 0.75')


def _link(path: Path) -> None:
    target = path.with_name("real.jsonl")
    training(rows()).write(path.parent)
    path.rename(target)
    path.symlink_to(target.name)


def variables() -> Iterator[tuple[str, Case]]:
    """Environment variables that schedulers, shells and other tools set."""
    for name, environment in {
        "home-missing": {"HOME": "/proc/nonexistent"},
        "home-unset": {"HOME": None},
        "home-empty": {"HOME": ""},
        "tmpdir-long": {"TMPDIR": "/tmp/" + "x" * 90},
        "tmpdir-missing": {"TMPDIR": "/proc/nonexistent"},
        "rank": {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        "slurm": {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"},
        "threads-0": {"OMP_NUM_THREADS": "0"},
        "threads-word": {"OMP_NUM_THREADS": "many"},
        "threads-empty": {"OMP_NUM_THREADS": ""},
        "threads-list": {"OMP_NUM_THREADS": "2,1"},
        "columns-1": {"COLUMNS": "1"},
        "columns-word": {"COLUMNS": "wide"},
        "columns-0": {"COLUMNS": "0"},
        "lang": {"LANG": "C", "LC_ALL": "C"},
        "no-utf8": {"PYTHONUTF8": "0", "LC_ALL": "POSIX"},
        "io-latin": {"PYTHONIOENCODING": "latin-1"},
        "no-color": {"NO_COLOR": "1"},
        "force-color": {"FORCE_COLOR": "1"},
        "term-dumb": {"TERM": "dumb"},
        "term-unset": {"TERM": None},
        "proxy": {"HTTPS_PROXY": "http://nowhere:1"},
        "hf-home": {"HF_HOME": "/proc/nonexistent"},
        "cuda": {"CUDA_VISIBLE_DEVICES": ""},
        "seed": {"PYTHONHASHSEED": "random"},
        "timezone": {"TZ": "Nowhere/Nowhere"},
        "mpl": {"MPLBACKEND": "TkAgg"},
        "mpl-config": {"MPLCONFIGDIR": "/proc/nonexistent"},
    }.items():
        yield f"inspect-{name}", training(rows()).within(**environment).gives(given=6, **ALL)
        if name not in ("no-utf8", "io-latin"):  # the process of these tests has begun with its encoding
            yield f"evaluate-{name}", benchmark().within(**environment).gives(given=2, **MEASURED)
    plain = training(rows())
    tables = Case([argument for argument in plain.arguments if argument != "--json"], plain.files)
    for columns in ("20", "40", "80", "500", "wide"):
        yield f"tables-columns-{columns}", tables.within(COLUMNS=columns).gives("Corpus")
    local = Case(["train", "run.yaml", "--launcher", "local", "--json"], plain.files)
    for name, (environment, words) in {
        "rank-word": ({"RANK": "x"}, "environment, RANK"),
        "rank-alone": ({"RANK": "0", "WORLD_SIZE": None}, "environment"),
        "rank-outside": ({"RANK": "5"}, "environment, RANK"),
        "rank-negative": ({"RANK": "-1"}, "environment, RANK"),
        "local-rank-outside": ({"RANK": "0", "LOCAL_RANK": "2"}, "environment, LOCAL_RANK"),
        "size-0": ({"RANK": "0", "WORLD_SIZE": "0"}, "environment, WORLD_SIZE"),
        "size-word": ({"RANK": "0", "WORLD_SIZE": "two"}, "environment, WORLD_SIZE"),
        "port-word": ({"RANK": "0", "MASTER_PORT": "x"}, "environment, MASTER_PORT"),
        "port-0": ({"RANK": "0", "MASTER_PORT": "0"}, "environment, MASTER_PORT"),
        "slurm-tasks": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "WORLD_SIZE": None}, "SLURM_NTASKS=8"),
        "slurm-word": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8(x2)"}, "environment, SLURM_NTASKS"),
    }.items():
        usual = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
        yield f"local-{name}", local.within(**{**usual, **environment}).fails(words, "expected|not")


CASES = dict([*paths(), *variables()])
