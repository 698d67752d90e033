"""Parts of the user's own: the page about them is executed, and what is wrong with them is said."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hbt_dist.batching.kinds import user_pairs
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import check_resume
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.config import user_functions as extensions
from hbt_dist.config.user_functions import load_user_function, user_digest, user_modules
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.evaluation.metrics import user_metrics, user_values
from hbt_dist.orchestration.cluster import _runtime_environment
from hbt_dist.run_file import load_run
from hbt_dist.testing.check_plan import check_plan
from tests.helpers.ranks import ROOT
from tests.helpers.runs import BIN, finish, start

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")


def write_examples(work: Path) -> None:
    """The files of the page, under their titles."""
    files = re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
    assert {"my_reader.py", "my_benchmark.py", "my_metric.py", "my_kind.py", "run.yaml"} <= set(dict(files))
    for name, text in files:
        (work / name).write_text(text, "utf-8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the page's files, of which this process forgets everything afterwards."""
    before, path, loaded = set(sys.modules), list(sys.path), dict(extensions._loaded)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HBT_DIST_MODULE_PATH", "")
    write_examples(tmp_path)
    user_pairs.cache_clear()
    extensions._loaded.clear()
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    extensions._loaded.clear()
    extensions._loaded.update(loaded)
    user_pairs.cache_clear()


@pytest.mark.slow
@pytest.mark.ray
def test_the_page_runs(tmp_path: Path) -> None:
    write_examples(tmp_path)
    (commands,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PATH": f"{BIN}{os.pathsep}{os.defpath}"}
    said = {}
    for command in commands.splitlines():
        program, *arguments = shlex.split(command)
        code, out, err = finish(start([BIN / program, *arguments], tmp_path, **environment))
        assert code == 0, f"{command}\n{out[-2000:]}\n{err[-3000:]}"
        assert "Traceback" not in err, err[-3000:]
        said[command] = out
    assert said["python check_kind.py"] == "sound\n"
    assert "my_kind:from_english" in said["hbt-dist data inspect run.yaml --step 0"]
    assert re.search(r"\[.+\], p = ", said["python compare.py"])
    (first, *_) = json.loads((tmp_path / "runs" / "own" / "provenance.json").read_text("utf-8"))
    assert set(first["user_functions"]) == {"my_reader:open_faq", "my_kind:from_english"}
    for folder in ("results/own", "runs/own/evaluation/end/my_benchmark-read_terms"):
        results = json.loads((tmp_path / folder / "results.json").read_text("utf-8"))
        assert set(results["provenance"]["user_functions"]) == {
            "my_benchmark:read_terms",
            "my_metric:success_at_3",
        }
        for setting in results["means"].values():
            assert 0 <= setting["macro"]["success_at_3"] <= 1
        assert "success_at_3" in (tmp_path / "results" / "own" / "report.md").read_text("utf-8")


def build(work: Path, **source: object) -> DataSettings:
    faq = {"name": "faq", "format": "my_reader:open_faq", "path": str(work / "faq.tsv"), **source}
    return DataSettings.model_validate({"sources": [faq], "cache_dir": str(work / "cache")})


def make_data(work: Path) -> None:
    lines = [
        f"{number}\t{code}\tquestion {number} in {code}\tanswer {number} in {code}\n"
        for number in range(40)
        for code in ("en", "fi", "et")
    ]
    (work / "faq.tsv").write_text("".join(lines), "utf-8")
    (work / "terms.tsv").write_text("".join(lines[:30]), "utf-8")


def test_another_reader_is_other_data(work: Path) -> None:
    make_data(work)
    corpus = build_corpus(build(work))
    assert (corpus.num_examples, corpus.languages) == (40, ("en", "et", "fi"))
    assert build_corpus(build(work)).fingerprint == corpus.fingerprint
    fewer = build_corpus(build(work, options={"first": 30}))
    assert fewer.num_examples == 30
    assert fewer.fingerprint != corpus.fingerprint
    with (work / "my_reader.py").open("a", encoding="utf-8") as file:
        file.write("\n# another version\n")
    changed = build_corpus(build(work))
    assert changed.fingerprint != corpus.fingerprint
    block = BatchSettings.model_validate({"global_batch_size": 8})
    with pytest.raises(UserError, match="the training data have changed"):
        check_resume(BatchPlan(corpus, block, 0).state, BatchPlan(changed, block, 0).state)


def test_a_kind_that_gives_other_pairs_is_another_plan(work: Path) -> None:
    make_data(work)
    corpus = build_corpus(build(work))
    block = BatchSettings.model_validate({"global_batch_size": 8, "mixture": {"my_kind:from_english": 1}})
    plan = BatchPlan(corpus, block, 0)
    pairs = {
        (corpus.languages[q], corpus.languages[p])
        for step in range(10)
        for q, p in zip(plan.batch(step).question_language, plan.batch(step).passage_language, strict=True)
    }
    assert pairs == {("en", "fi"), ("en", "et")}
    assert plan.batch(0).kind == "my_kind:from_english"
    state = plan.state
    assert state["own_kinds"] == {"mixture 0": {"pairs": ["en-et", "en-fi"], "one_per_batch": False}}
    module = sys.modules["my_kind"]
    text = (work / "my_kind.py").read_text("utf-8")
    exec(text.replace('language != "en"', 'language == "fi"'), vars(module))
    user_pairs.cache_clear()
    with pytest.raises(UserError, match=r"own_kinds\.mixture 0\.pairs.* was "):
        check_resume(state, BatchPlan(corpus, block, 0).state)


def test_the_check_of_a_kind_finds_what_is_wrong(work: Path) -> None:
    make_data(work)
    corpus = build_corpus(build(work))
    (work / "bad_kind.py").write_text(
        "import random\n"
        "from hbt_dist.batching.kinds import RowPairs\n"
        "def by_chance(languages):\n"
        "    return RowPairs((('en', random.choice(['fi', 'et'])),))\n"
        "def nothing(languages):\n"
        "    return RowPairs(())\n"
        "def stranger(languages):\n"
        "    return RowPairs((('en', 'sv'),))\n"
        "def twice(languages):\n"
        "    return RowPairs((('en', 'fi'), ('en', 'fi')))\n"
        "def a_list(languages):\n"
        "    return [('en', 'fi')]\n",
        "utf-8",
    )

    def check(kind: str) -> None:
        block = {"global_batch_size": 8, "mixture": {f"bad_kind:{kind}": 1}}
        check_plan(corpus, BatchSettings.model_validate(block))

    with pytest.raises(AssertionError, match=r"different pairs in a second call|depends on more than"):
        check("by_chance")
    for kind, said in {
        "nothing": "gives no pair for en, et, fi",
        "stranger": r"\('en', 'sv'\) is not a pair of en, et, fi",
        "twice": "gives a pair twice",
        "a_list": "returned list",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            check(kind)
        assert error.value.location == f"batches.mixture, kind bad_kind:{kind}"


def test_a_benchmark_of_ones_own(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = work / "data" / "my_benchmark"  # a folder of data with the module's name, earlier on the path
    data.mkdir(parents=True)
    monkeypatch.syspath_prepend(data.parent)
    make_data(work)
    found = load_benchmark("my_benchmark:read_terms", work)
    assert (found.name, found.variant) == ("my_benchmark:read_terms", "default")
    assert found.pair_counts().tolist() == [[10] * 3] * 3
    part = load_benchmark("my_benchmark:read_terms", work, variant="short", languages=["fi", "en"])
    assert (part.languages, part.variant) == (("fi", "en"), "short")
    with pytest.raises(UserError, match="no such folder"):
        load_benchmark("my_benchmark:read_terms", work / "nowhere")
    (work / "my_empty.py").write_text("def read(folder, variant, languages, into): pass\n", "utf-8")
    with pytest.raises(UserError, match="my_empty:read"):
        load_benchmark("my_empty:read")


def test_a_metric_of_ones_own(work: Path) -> None:
    own = user_metrics(["my_metric:success_at_3"])
    ranks, offsets = np.array([9, 2, 7, 4, 1, 30]), np.array([0, 2, 4, 6])
    assert user_values(own, ranks, offsets)["success_at_3"].tolist() == [1, 0, 1]
    (work / "bad_metric.py").write_text(
        "import numpy as np\n"
        "def one(ranks, offsets): return np.ones(1)\n"
        "def infinite(ranks, offsets): return 1 / (ranks[offsets[:-1]] - 2.0 + 0 * (ranks.sort() or 0))\n"
        "def accuracy(ranks, offsets): return np.ones(len(offsets) - 1)\n"
        "def num_relevant(ranks, offsets): return np.ones(len(offsets) - 1)\n",
        "utf-8",
    )
    with pytest.raises(UserError, match=r"got shape \(1,\)"):
        user_values(user_metrics(["bad_metric:one"]), ranks, offsets)
    with np.errstate(divide="ignore"), pytest.raises(UserError, match="NaN or infinity"):
        user_values(user_metrics(["bad_metric:infinite"]), ranks, offsets)
    assert ranks.tolist() == [9, 2, 7, 4, 1, 30]
    for taken in ("accuracy", "num_relevant"):
        with pytest.raises(UserError, match=f"the name {taken} is taken"):
            user_metrics([f"bad_metric:{taken}"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_readers:open_faq", "module my_readers was not found"),
        ("my_reader:open_fag", r"has no open_fag\n.*did you mean my_reader:open_faq\?"),
        ("my_reader:__doc__", "has no function under __doc__"),
        ("my_reader.part:open_faq", "module my_reader.part was not found"),
        ("broken:read", "module broken cannot be imported: ValueError: one two"),
        ("needs:read", "module needs cannot be imported: ModuleNotFoundError: No module named 'absent_one'"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_with_file_and_key(work: Path, name: str, said: str) -> None:
    (work / "broken.py").write_text("raise ValueError('one\\ntwo')\n", "utf-8")
    (work / "needs.py").write_text("import absent_one\n", "utf-8")
    with pytest.raises(UserError, match=said) as error:
        load_run("run.yaml", [f"data.sources.0.format={name}"])
    assert error.value.location == "run.yaml, data.sources.0.format"


@pytest.mark.parametrize(
    "name", ["my reader:open", "my_reader:", ":open", "my-reader:open", "a:b:c", "a..b:c"]
)
def test_what_is_no_name_is_refused_with_its_line(work: Path, name: str) -> None:
    with pytest.raises(UserError, match="or a user-defined function, written module:function") as error:
        load_run("run.yaml", [f"data.sources.0.format='{name}'"])
    assert "data.sources.0.format" in error.value.location


def test_options_belong_to_readers_of_ones_own(work: Path) -> None:
    with pytest.raises(UserError, match="format sample has no option options"):
        load_run("quickstart", ["data.sources.0.options={first: 1}"])
    with pytest.raises(UserError, match="has no option columns"):
        load_run("run.yaml", ["data.sources.0.columns={question: q}"])


def test_other_processes_find_the_module(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "json.py").write_text("raise AssertionError('shadows the library')\n", "utf-8")
    load_user_function("my_metric:success_at_3", "here")
    assert os.environ["HBT_DIST_MODULE_PATH"] == str(work)
    assert sys.path[-1] == str(work), "behind everything that is installed"
    assert user_modules() == [str(work / "my_metric.py")]
    assert len(user_digest("my_metric:success_at_3")) == 64
    # A process that was started from here, in another directory.
    del sys.modules["my_metric"], sys.path[-1]
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    load_user_function("my_metric:success_at_3", "here")
    # A cluster of other machines gets the file, unless a job has brought its own working directory.
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert str(work / "my_metric.py") in _runtime_environment()["py_modules"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://x"}}))
    assert "py_modules" not in _runtime_environment()


def test_installed_modules_are_not_sent() -> None:
    load_user_function("numpy.linalg:norm", "here")
    try:
        assert not [place for place in user_modules() if "numpy" in place]
    finally:
        extensions._loaded.pop("numpy")


def test_the_readers_of_the_page_take_odd_files(work: Path) -> None:
    lines = ["1\ten\tq\u2028q\ta\x0ca", "", "1\tfi\tk\x85k\tv\x1cv", "2\ten\tr\tb", "2\tfi\tl\tw"]
    for name in ("faq.tsv", "terms.tsv"):
        (work / name).write_bytes("\r\n".join(lines).encode("utf-8-sig"))  # no line end at the end
    corpus = build_corpus(build(work))
    assert corpus.question_texts("en") == ["q\u2028q", "r"]
    assert corpus.question_texts("fi") == ["k\x85k", "l"]
    found = load_benchmark("my_benchmark:read_terms", work)
    assert found.pair_counts().tolist() == [[2, 2], [2, 2]]
    for name in ("faq.tsv", "terms.tsv"):
        (work / name).write_text("1\ten\tq\n", "utf-8")
    for read in (lambda: build_corpus(build(work)), lambda: load_benchmark("my_benchmark:read_terms", work)):
        with pytest.raises(UserError, match=r"line 1: has 3 columns\n.*expected 4"):
            read()


BAD_READERS = {
    "a KeyError in a record": (
        "    yield TrainingRecord('one', 'p', {'en': 'a'}, {'en': 'b'})\n    {}['absent']\n",
        r"(?s)source faq, after record 0, 'one': bad_reader:read raised KeyError: 'absent'\n.*"
        r"at .*bad_reader\.py line 6, in records: \{\}\['absent'\]",
    ),
    "an error before the first": (
        "    raise OSError('disk')\n    yield\n",
        r"(?s)source faq, before the first record: bad_reader:read raised OSError: disk.*line 5, in records",
    ),
    "no generator": ("    return 3\n", "raised TypeError: 'int' object is not iterable"),
    "a dict": ("    yield {'id': 1}\n", "record 0 of bad_reader:read: expected a TrainingRecord, got dict"),
    "None": ("    yield None\n", "record 0 of bad_reader:read: expected a TrainingRecord, got NoneType"),
    "an id that is no text": (
        "    yield TrainingRecord(3, 'p', {'en': 'a'}, {'en': 'b'})\n",
        "record 0 of bad_reader:read: example_id is a number",
    ),
    "a text without languages": (
        "    yield TrainingRecord('1', 'p', 'a', {'en': 'b'}, location='here')\n",
        "record 0 of bad_reader:read, here: question is a string",
    ),
    "an empty text": (
        "    yield TrainingRecord('1', 'p', {'en': 'a'}, {'en': '\\u200b'})\n",
        "passage in 'en' is empty",
    ),
    "no language": (
        "    yield TrainingRecord('1', 'p', {'nolanguage': 'a'}, {'en': 'b'})\n",
        "'nolanguage' is not a language code",
    ),
    "a list of negatives": (
        "    yield TrainingRecord('1', 'p', {'en': 'a'}, {'en': 'b'}, ['c'])\n",
        "negatives are a list",
    ),
    "a negative that is no record": (
        "    yield TrainingRecord('1', 'p', {'en': 'a'}, {'en': 'b'}, ('c',))\n",
        "expected a NegativeRecord, got str",
    ),
}


@pytest.mark.parametrize("name", BAD_READERS)
def test_mistakes_of_a_reader_are_named(name: str, work: Path) -> None:
    body, message = BAD_READERS[name]
    (work / "bad_reader.py").write_text(
        "from hbt_dist.data.corpus.readers import SourceReader\n"
        "from hbt_dist.data.corpus.records import TrainingRecord\n"
        "def read(source, languages, missing): return SourceReader(records)\n"
        f"def records():\n{body}",
        "utf-8",
    )
    with pytest.raises(UserError, match=message) as error:
        build_corpus(build(work, format="bad_reader:read"))
    if " raised " in error.value.problem:
        assert error.value.__cause__ is not None


def test_a_reader_spells_languages_as_it_likes(work: Path) -> None:
    (work / "spelling.py").write_text(
        "from hbt_dist.data.corpus.readers import SourceReader\n"
        "from hbt_dist.data.corpus.records import TrainingRecord\n"
        "def read(source, languages, missing):\n"
        "    return SourceReader(lambda: [TrainingRecord('1', 'p', {'fin_Latn': 'a'}, {'eng': 'b'})])\n",
        "utf-8",
    )
    block = {"sources": [{"name": "s", "format": "spelling:read"}], "missing": "skip"}
    corpus = build_corpus(DataSettings.model_validate(block), work / "cache")
    assert corpus.languages == ("en", "fi")


def test_exceptions_of_openers_and_benchmarks_are_named(work: Path) -> None:
    (work / "bad.py").write_text(
        "def open_source(source, languages, missing):\n"
        "    return int('x')\n"
        "def read(folder, variant, languages, into):\n"
        "    into.add_question('1', 'en', 'a', 'here')\n"
        "    int('many\\nlines')\n"
        "def typed(folder, variant, languages, into):\n"
        "    into.add_question('1', 'en', None, 'here')\n",
        "utf-8",
    )
    with pytest.raises(UserError, match=r"(?s)bad:open_source raised ValueError: .*bad\.py line 2") as error:
        build_corpus(build(work, format="bad:open_source"))
    assert error.value.location == "source faq, format"
    with pytest.raises(
        UserError, match=r"(?s)bad:read raised ValueError: .*bad\.py line 5, in read: int"
    ) as error:
        load_benchmark("bad:read")
    assert error.value.location == "benchmark bad:read"
    assert isinstance(error.value.__cause__, ValueError)
    with pytest.raises(UserError, match=r"(?s)bad\.py line 7|text of question"):
        load_benchmark("bad:typed")
