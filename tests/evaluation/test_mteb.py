"""Tasks of MTEB, made at toy size in the layout of their repositories: digits of MTEB's evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import Evaluation
from hbt_dist.evaluation.mteb import MtebEncoder
from hbt_dist.evaluation.run import score_encoder
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.loading import load_encoder
from tests.helpers.published import Toy, write_hub

pytestmark = pytest.mark.slow  # MTEB takes 5 s to import

#: our metric -> MTEB's, which does not cut pools of fewer than 1,000 documents
NAMES = {
    "ndcg@10": "ndcg_at_10",
    "map": "map_at_1000",
    "recall@1": "recall_at_1",
    "recall@10": "recall_at_10",
    "recall@100": "recall_at_100",
    "mrr": "mrr_at_1000",
    "accuracy": "hit_rate_at_1",
}
WORDS = ("question", "candidate", "en", "fi", "zh", *"0123456789")


def toy(seed: int, num_documents: int = 60, num_questions: int = 12, prefix: str = "") -> Toy:
    rng = np.random.default_rng(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS, length))

    documents = {
        f"{prefix}d{number}": (text(2) if number % 3 else "", text(int(rng.integers(1, 9))))
        for number in range(num_documents)
    }
    questions = {f"{prefix}q{number}": text(int(rng.integers(1, 5))) for number in range(num_questions)}
    judged = [
        (question, str(document), int(rng.integers(1, 4)))
        for question in questions
        for document in rng.choice(list(documents), int(rng.integers(1, 5)), replace=False)
    ]
    return Toy(documents, questions, judged)


def arguana() -> Toy:
    """Every question is a document; one has a single relevant document, which is not in the corpus."""
    data = toy(1)
    questions = {item: " ".join(data.documents[item]).strip() for item in list(data.documents)[:10]}
    rng = np.random.default_rng(5)
    judged = []
    for number, question in enumerate(questions):
        others = [item for item in data.documents if item != question]
        judged.append((question, "gone" if number == 4 else str(rng.choice(others)), 1))
    judged += [("d2", "gone too", 1), ("d3", "d3", 1)]  # one of two is absent; the question's own document
    return Toy(data.documents, questions, judged)


def fiqa() -> Toy:
    """Empty documents, several grades, whole numbers as ids of questions and documents alike."""
    data = toy(2)
    number = {item: str(position) for position, item in enumerate([*data.documents, *data.questions])}
    asked = {question: str(position * 7) for position, question in enumerate(data.questions)}
    documents = {number[item]: texts for item, texts in data.documents.items()}
    documents |= {"900": ("", ""), "901": ("", " "), "902": ("", "")}
    judged = [(asked[question], number[item], grade) for question, item, grade in data.judged]
    judged += [(asked["q0"], "900", 2), ("999", "1", 1)]  # an empty one is relevant; a question is not asked
    return Toy(documents, {asked[question]: text for question, text in data.questions.items()}, judged)


TASKS = {
    "ArguAna": ({"default": arguana()}, "test", ["en"]),
    "FiQA2018": ({"default": fiqa()}, "test", ["en"]),
    "MIRACLRetrieval": (
        {"fi": toy(3), "sw": toy(4, num_documents=45, num_questions=7), "te": toy(6, num_documents=30)},
        "dev",
        ["fi", "sw", "te"],
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> MtebEncoder:
    return MtebEncoder(tiny_model)


def scored(
    name: str, folder: Path, encoder: MtebEncoder, **options: Any
) -> tuple[dict[str, dict[str, float]], Benchmark, Evaluation]:
    """Return MTEB's scores by subset, and the same task evaluated here."""
    import mteb

    subsets, split, languages = TASKS[name]
    write_hub(folder, subsets, split, old_names=name == "ArguAna")
    benchmark = load_benchmark(f"mteb:{name}", folder, languages=languages, **options)
    task = mteb.get_task(name, hf_subsets=list(subsets))
    dataset = {**task.metadata.dataset, "path": str(folder), "revision": None}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    scores = task.evaluate(encoder, split, encode_kwargs={"show_progress_bar": False})
    evaluation = score_encoder(
        encoder.loaded, benchmark, settings=EvaluationSettings(top_k=100), progress=False
    )
    return dict(scores), benchmark, evaluation


@pytest.mark.parametrize("name", TASKS)
def test_equal_to_the_evaluator_of_mteb(name: str, tmp_path: Path, encoder: MtebEncoder) -> None:
    scores, benchmark, evaluation = scored(name, tmp_path / "repository", encoder)
    for subset, (position, _) in zip(scores, enumerate(benchmark.languages), strict=True):
        for metric, of_mteb in NAMES.items():
            value = evaluation.pair_matrix.values[metric][position, position]
            assert round(float(value), 5) == round(scores[subset][of_mteb], 5), (subset, metric)


def test_counts_of_a_task(tmp_path: Path, encoder: MtebEncoder) -> None:
    """What the toy tasks are made of is there, so that the comparison above is one."""
    _, arguana_benchmark, _ = scored("ArguAna", tmp_path / "a", encoder)
    assert dict(arguana_benchmark.judgements.counts) == {
        "absent_relevant": 2,
        "questions_with_own_document": 10,
        "own_document_relevant": 1,
    }
    _, fiqa_benchmark, _ = scored("FiQA2018", tmp_path / "f", encoder)
    counts = dict(fiqa_benchmark.judgements.counts)
    assert counts["empty_documents"] == 3
    assert counts["questions_not_asked"] == 1
    assert counts["questions_with_own_document"] > 3


@pytest.mark.parametrize("name", ["ArguAna", "FiQA2018"])
def test_other_rules_give_other_digits(name: str, tmp_path: Path, encoder: MtebEncoder) -> None:
    """The comparison can fail: a ranking that keeps the question's own document differs."""
    scores, _, evaluation = scored(name, tmp_path / "repository", encoder, identical_ids="keep")
    values = {m: round(float(evaluation.pair_matrix.values[m][0, 0]), 5) for m in NAMES}
    assert values != {m: round(scores["default"][of_mteb], 5) for m, of_mteb in NAMES.items()}


def test_pool_of_all_languages(tmp_path: Path, encoder: MtebEncoder) -> None:
    """MTEB does not pool languages: against sorting."""
    _, _, evaluation = scored("MIRACLRetrieval", tmp_path / "repository", encoder)
    subsets, _, languages = TASKS["MIRACLRetrieval"]
    ids, texts, values = [], [], {code: [] for code in languages}
    for code, data in subsets.items():
        ids += [f"{code}_{item}" for item in data.documents]
        texts += [" ".join(part for part in parts if part).strip() for parts in data.documents.values()]

    def embed(texts: list[str], kind: str) -> np.ndarray:
        from mteb.types import PromptType

        return encoder.encode([{"text": texts}], prompt_type=PromptType(kind))

    documents = embed(texts, "document")
    for code, data in subsets.items():
        scores = embed(list(data.questions.values()), "query") @ documents.T
        for question, row in zip(data.questions, scores, strict=True):
            order = sorted(range(len(ids)), key=lambda i: (row[i], ids[i]), reverse=True)
            relevant = {f"{code}_{item}" for q, item, _ in data.judged if q == question}
            ranks = [rank for rank, i in enumerate(order, 1) if ids[i] in relevant]
            values[code].append(sum(n / rank for n, rank in enumerate(ranks, 1)) / len(relevant))
    expected = np.mean([np.mean(of_language) for of_language in values.values()])
    assert evaluation.means["multilingual"]["macro"]["map"] == pytest.approx(expected, abs=1e-9)
    assert expected < evaluation.means["monolingual"]["macro"]["map"]


def test_texts_of_several_languages_count_as_the_one_that_is_named(
    tmp_path: Path, encoder: MtebEncoder
) -> None:
    """MTEB lists English and Python for CosQA, without the language of each text."""
    write_hub(tmp_path, {"default": toy(8)}, "test")
    assert load_benchmark("mteb:CosQA", tmp_path, languages=["en"]).languages == ("en",)
    with pytest.raises(UserError, match=r"python-Code .*\n?.*name one language for all of them"):
        load_benchmark("mteb:CosQA", tmp_path)


def test_our_encoder_is_a_model_of_mteb(tmp_path: Path, tiny_model: Path) -> None:
    """Prefixes by prompt type: MTEB's figures are those of the encoder with its prefixes, not without."""
    import mteb
    from mteb.models import EncoderProtocol

    plain = MtebEncoder(load_encoder(tiny_model, text={"question_prefix": ""}))
    prefixed = MtebEncoder(tiny_model)
    assert isinstance(prefixed, EncoderProtocol)
    assert prefixed.mteb_model_meta.name == "hbt_dist/tiny"
    write_hub(tmp_path / "repository", TASKS["FiQA2018"][0])
    task = mteb.get_task("FiQA2018")
    dataset = {**task.metadata.dataset, "path": str(tmp_path / "repository"), "revision": None}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    with_prefix, without = (
        task.evaluate(model, "test", encode_kwargs={"show_progress_bar": False})["default"]["map_at_1000"]
        for model in (prefixed, plain)
    )
    assert with_prefix != without
    a, b = np.eye(2, 3), np.array([[1.0, 2, 3], [4, 5, 6]])
    assert prefixed.similarity(a, b).tolist() == [[1, 4], [2, 5]]
    assert prefixed.similarity_pairwise(a, b).tolist() == [1, 5]


@pytest.mark.parametrize(
    ("name", "language", "words"),
    [
        ("mteb:ArguAnna", "en", "Did you mean: 'ArguAna'"),
        ("mteb:STS17", "en", "is a task of type STS"),
        ("mteb:ArguAna", "en", "MTEB cannot load it"),
        ("mteb:ArguAna", "fi", "has none of the languages\\s+it has en"),
        ("mteb:AskUbuntuDupQuestions", "en", "MTEB cannot load it|ranks given candidates"),
    ],
)
def test_what_is_not_a_task(name: str, language: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        load_benchmark(name, tmp_path / "empty", languages=[language])
