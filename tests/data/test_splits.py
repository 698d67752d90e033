"""The parts of a data set: disjoint, complete, the same for training and for benchmarks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.settings import DataSettings, SourceSettings
from hbt_dist.data.sample import sample_facts
from hbt_dist.data.splits import Split, half_of, in_split

PARTS: tuple[Split, ...] = ("train", "dev", "test")
# benchmark, folder, questions of eval, dev and test in one language
SETS = [
    ("mkqa", "mkqa", (1_758, 847, 911)),
    ("ntrex", "ntrex", (621, 194, 427)),
    ("squad-parallel", "squad-en-fi", (4_135, None, None)),
    ("exams", "exams", (None, None, None)),
]


def test_halves_depend_on_the_id_alone() -> None:
    ids = [f"document-{number}" for number in range(400)]
    halves = [half_of(one) for one in ids]
    assert 150 < halves.count("dev") < 250
    number = int(hashlib.sha256(b"dev or test: document-0").hexdigest(), 16)
    assert halves[0] == ("test" if number % 2 else "dev")


@pytest.mark.parametrize("held_out", [True, False])
def test_parts_cover_everything_once(held_out: bool) -> None:
    for number in range(50):
        document = f"d{number}"
        parts = [part for part in PARTS if in_split(part, document, held_out)]
        assert len(parts) == 1
        assert in_split("all", document, held_out)
        assert in_split("eval", document, held_out) == held_out == (parts != ["train"])


def question_ids(benchmark: Benchmark) -> set[str]:
    return set(benchmark.question_ids)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder", "counts"), SETS)
def test_benchmark_parts(
    shared_data: Path, name: str, folder: str, counts: tuple[int | None, int | None, int | None]
) -> None:
    """dev and test share no question, no candidate item and no cluster, and together are eval."""
    whole, dev, test = (load_benchmark(name, shared_data, variant) for variant in ("eval", "dev", "test"))
    assert (dev.variant, test.variant) == ("dev", "test")
    assert len({one.fingerprint for one in (whole, dev, test)}) == 3
    assert not question_ids(dev) & question_ids(test)
    assert question_ids(dev) | question_ids(test) == question_ids(whole)
    for benchmark, count in zip((whole, dev, test), counts, strict=True):
        if count is not None:
            assert len(question_ids(benchmark)) == count
    if name == "exams":  # choices such as "yes" are candidates of many questions
        return
    assert not set(dev.candidate_ids) & set(test.candidate_ids)
    assert set(dev.candidate_ids) | set(test.candidate_ids) == set(whole.candidate_ids)
    cluster = dict(zip(whole.question_ids, whole.question_cluster.tolist(), strict=True))
    assert not {cluster[one] for one in dev.question_ids} & {cluster[one] for one in test.question_ids}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder", "counts"), SETS)
def test_training_parts_are_the_benchmarks_parts(
    shared_data: Path, name: str, folder: str, counts: tuple[int | None, ...]
) -> None:
    def examples(split: Split) -> set[str]:
        source = SourceSettings(name="one", format=name, path=str(shared_data / folder), split=split)  # type: ignore[arg-type]
        return {
            record.example_id.removeprefix("cluster-")
            for record in open_source(source, None, "refuse").records()
        }

    parts = {split: examples(split) for split in (*PARTS, "eval", "all")}
    assert sum(len(parts[split]) for split in PARTS) == len(parts["all"])
    assert set.union(*(parts[split] for split in PARTS)) == parts["all"]
    assert parts["dev"] | parts["test"] == parts["eval"]
    for split in ("dev", "test"):
        asked = question_ids(load_benchmark(name, shared_data, split))
        assert asked == parts[split]
        assert not asked & parts["train"]


def test_mkqa_answers_by_part(shared_data: Path) -> None:
    def count(split: Split) -> int:
        source = SourceSettings(
            name="one", format="mkqa", path=str(shared_data / "mkqa"), split=split, content="answers"
        )
        return sum(1 for _ in open_source(source, None, "refuse").records())

    assert (count("dev"), count("test"), count("eval")) == (847, 911, 1_758)


def test_sample_parts() -> None:
    facts = {split: {fact.id for fact in sample_facts(split)} for split in (*PARTS, "eval", "all")}
    assert (len(facts["dev"]), len(facts["test"])) == (60, 60)
    assert facts["dev"] | facts["test"] == facts["eval"]
    assert not facts["dev"] & facts["test"]
    assert facts["train"] | facts["eval"] == facts["all"]
    assert not facts["train"] & facts["eval"]
    countries = [{fact.territory for fact in sample_facts(split)} for split in ("dev", "test")]
    assert [len(one) for one in countries] == [20, 20]
    assert not countries[0] & countries[1]


def test_sample_benchmark_and_source_take_the_parts() -> None:
    eval_, dev, test = (load_benchmark("sample", variant=variant) for variant in ("eval", "dev", "test"))
    assert load_benchmark("sample").fingerprint == eval_.fingerprint
    assert question_ids(dev) | question_ids(test) == question_ids(eval_)
    assert dev.num_candidates == 60 * len(dev.languages)
    assert (np.diff(dev.relevant_offsets) == len(dev.languages)).all()
    source = SourceSettings(name="one", format="sample", split="dev")
    assert {one.example_id for one in open_source(source, None, "skip").records()} == question_ids(dev)
    assert DataSettings(sources=(source,)).sources[0].split == "dev"
