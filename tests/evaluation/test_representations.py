"""Cut and quantised embeddings against float64 references and sentence-transformers; any number of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sentence_transformers.util import quantize_embeddings, truncate_embeddings

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation import representations as module
from hbt_dist.evaluation.embedding_files import open_embedding_files
from hbt_dist.evaluation.evaluation import evaluate, rank_in_process
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.representations import RepresentedRows, int8_ranges, represented
from hbt_dist.evaluation.settings import EvaluationSettings, Representation

WIDTH = 24
SETTINGS = EvaluationSettings(
    device="cpu",
    widths=(12, "12:int8", "5:binary", WIDTH),
    precisions=("float32", "int8", "binary"),
    consistency_questions=3,
)
NAMES = ["12", "12:int8", "5:binary", "int8", "binary"]


def unit(rows: int, seed: int) -> np.ndarray:
    """Vectors of length 1 whose dimensions differ in size and offset, as those of real models do."""
    rng = np.random.default_rng(seed)
    sizes = np.linspace(2.0, 0.1, WIDTH)
    values = rng.standard_normal((rows, WIDTH)) * sizes + 0.5 * np.cos(np.arange(WIDTH))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def scored(make_benchmark):
    benchmark = make_benchmark(num_ids=30, per_language=400, missing=0.2, shuffled=True)
    return benchmark, unit(benchmark.num_questions, 1), unit(benchmark.num_candidates, 2)


def reference(name: str, questions: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides by sentence-transformers: cut, length 1, quantised with the ranges of all candidates."""
    width, _, precision = name.rpartition(":") if ":" in name or not name.isdigit() else (name, "", "float32")
    sides = []
    for full in (questions, candidates):
        values = truncate_embeddings(full, int(width or WIDTH)).astype(np.float64)
        if width:
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
        sides.append(values.astype(np.float32))
    if precision == "int8":
        return tuple(quantize_embeddings(side, "int8", calibration_embeddings=sides[1]) for side in sides)
    if precision == "binary":
        bits = [np.unpackbits(quantize_embeddings(side, "ubinary"), axis=1) for side in sides]
        return tuple(2 * side[:, : int(width or WIDTH)].astype(np.int64) - 1 for side in bits)
    return tuple(sides)


def sorted_cells(benchmark, questions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(L, L) mAP by sorting each language's candidates by score and id, in float64."""
    scores = (questions.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    order_of_id = np.argsort(np.argsort(np.array(benchmark.candidate_ids)))
    size = len(benchmark.languages)
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for question, language in enumerate(benchmark.question_language):
        for target in range(size):
            rows = np.flatnonzero(benchmark.candidate_language == target)
            order = rows[np.lexsort((-order_of_id[rows], -scores[question, rows]))]
            ranks = np.flatnonzero(np.isin(order, benchmark.relevant_of(question))) + 1
            if len(ranks):
                total[language, target] += np.mean(np.arange(1, len(ranks) + 1) / ranks)
                count[language, target] += 1
    return total / count


def test_every_pair_matrix_is_that_of_a_naive_reference(scored) -> None:
    benchmark, questions, candidates = scored
    evaluation = evaluate(*scored, settings=SETTINGS)
    assert [item.name for item in evaluation.representations] == NAMES
    full = sorted_cells(benchmark, questions, candidates)
    np.testing.assert_allclose(evaluation.pair_matrix.values["map"], full, atol=1e-12)
    for item, own in evaluation.representations.items():
        expected = sorted_cells(benchmark, *reference(item.name, questions, candidates))
        np.testing.assert_allclose(own.pair_matrix.values["map"], expected, atol=1e-12, err_msg=item.name)
        assert np.abs(expected - full).max() > 1e-3, "the reference does not see the representation"
        assert own.means["multilingual"]["macro"]["map"] != evaluation.means["multilingual"]["macro"]["map"]
        assert own.bias.keys() == evaluation.bias.keys()
        assert own.consistency is not None


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_those_of_sentence_transformers(scored, name: str) -> None:
    _, questions, candidates = scored
    [item] = [r for r in SETTINGS.representations(WIDTH) if r.name == name]
    [matrices] = represented([item], questions, candidates, True).values()
    for rows, expected in zip(matrices, reference(name, questions, candidates), strict=True):
        assert rows.shape == expected.shape
        np.testing.assert_array_equal(rows[:], expected.astype(np.float32))
        np.testing.assert_array_equal(rows[np.array([7, 3])], expected[[7, 3]].astype(np.float32))


def test_digits_are_the_same_for_every_number_of_shards_and_files(scored, tmp_path: Path) -> None:
    benchmark, questions, candidates = scored
    files = open_embedding_files(tmp_path, "f" * 24, num_rows=len(candidates), width=WIDTH, rows_per_file=37)
    for number in files.missing():
        rows = files.rows_of_file(number)
        files.write_file(number, candidates[rows.start : rows.stop])
    first = evaluate(*scored, settings=SETTINGS)
    for shards, matrix in ((2, candidates), (3, files)):
        settings = SETTINGS.model_copy(update={"num_shards": shards, "num_threads": shards})
        again = evaluate(benchmark, questions, matrix, settings=settings)
        for item, own in again.representations.items():
            for field in ("pair", "pooled", "one_target", "tied", "scores"):
                before = getattr(first.representations[item].ranks, field)
                np.testing.assert_array_equal(getattr(own.ranks, field), before, err_msg=item.name)
            assert own.bias == first.representations[item].bias


def test_planted_mistakes_change_the_ranks(scored) -> None:
    benchmark, questions, candidates = scored
    plan = plan_scoring(benchmark)

    def ranks(item: Representation, normalized: bool, ranges: object = None) -> np.ndarray:
        sides = (RepresentedRows(side, item, normalized, ranges) for side in (questions, candidates))
        return rank_in_process(benchmark, plan, *sides, SETTINGS)[0].pooled

    evaluation = evaluate(*scored, settings=SETTINGS)
    right = {item.name: (item, own.ranks.pooled) for item, own in evaluation.representations.items()}
    cut, expected = right["12"]
    np.testing.assert_array_equal(ranks(cut, True), expected)
    assert (ranks(cut, False) != expected).any(), "no renormalisation"
    codes, expected = right["int8"]
    shard = int8_ranges(candidates[: len(candidates) // 2], [WIDTH], True)[WIDTH]
    assert (ranks(codes, True, shard) != expected).any(), "ranges of one shard"
    np.testing.assert_array_equal(ranks(codes, True, int8_ranges(candidates, [WIDTH], True)[WIDTH]), expected)


def test_ranges_are_those_of_all_rows_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = unit(100, 3)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    for width, bounds in int8_ranges(values, [12, WIDTH], False).items():
        np.testing.assert_array_equal(bounds, [values[:, :width].min(axis=0), values[:, :width].max(axis=0)])


def test_embeddings_without_length_1_are_cut_as_they_are(scored) -> None:
    benchmark, questions, candidates = scored
    candidates = candidates * np.linspace(0.5, 2.0, len(candidates), dtype=np.float32)[:, None]
    settings = EvaluationSettings(device="cpu", widths=(12,), consistency_questions=0)
    evaluation = evaluate(benchmark, questions, candidates, settings=settings, normalized=False)
    [own] = evaluation.representations.values()
    expected = sorted_cells(benchmark, questions[:, :12], candidates[:, :12])
    np.testing.assert_allclose(own.pair_matrix.values["map"], expected, atol=1e-12)


def test_bytes_and_names() -> None:
    settings = EvaluationSettings(widths=(96, "96:binary", "384:int8"), precisions=("binary", "int8"))
    listed = {item.name: item.bytes_per_vector for item in settings.representations(384)}
    assert listed == {"96": 384, "96:binary": 12, "int8": 384, "binary": 48}
    assert EvaluationSettings(widths=(384, "384:float32"), precisions=("float32",)).representations(384) == ()


def test_a_vector_of_zeros_after_the_cut_is_named(scored) -> None:
    benchmark, questions, candidates = scored
    candidates = candidates.copy()
    candidates[5, :12] = 0.0
    settings = EvaluationSettings(device="cpu", widths=(12,), consistency_questions=0)
    with pytest.raises(UserError, match=r"representation 12, candidate embedding of .*: the vector is all z"):
        evaluate(benchmark, questions, candidates, settings=settings)


def test_a_width_above_the_embeddings_is_refused(scored) -> None:
    settings = EvaluationSettings(device="cpu", widths=(12, 48, "32:int8"))
    with pytest.raises(UserError, match="expected widths of at most 24, the model's, got 32, 48"):
        evaluate(*scored, settings=settings)


@pytest.mark.parametrize("entry", [0, -3, 1.5, True, "half", "12:", "12:int4", ":int8", "", None, "²"])
def test_a_width_that_is_not_one_is_refused(entry: object) -> None:
    with pytest.raises(ValidationError, match="whole number above 0, or one with a precision"):
        EvaluationSettings(widths=(entry,))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValidationError, match="'float32', 'int8' or 'binary'"):
        EvaluationSettings(precisions=("int4",))


def test_settings_without_the_keys_are_as_before() -> None:
    assert EvaluationSettings().representations(384) == ()
