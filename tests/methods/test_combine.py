"""Expanded questions: the three ways to combine, by hand and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hbt_dist.cli.main import app
from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.files import digest_of_file
from hbt_dist.evaluation.encode import encode_texts, tokenise
from hbt_dist.evaluation.evaluation import assemble, evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.methods.expansion.combine import concatenated, evaluate_expanded, make_room, mean_embeddings
from hbt_dist.methods.expansion.files import Expansions
from hbt_dist.methods.expansion.fusion import fuse_rankings
from hbt_dist.methods.expansion.settings import Combine, CombineSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.run_file import BenchmarkSettings


def test_concatenation() -> None:
    assert concatenated("why", ["because", "", "so"], 2) == "why why because so"
    assert concatenated("why", [""], 1) == "why"


def test_mean_by_hand() -> None:
    questions = np.array([[3.0, 0.0], [1.0, 0.0]], np.float32)
    expansions = np.array([[0.0, 3.0], [3.0, 3.0]], np.float32)
    of = np.array([0, 0])
    plain = mean_embeddings(questions, expansions, of, normalize=False)
    np.testing.assert_allclose(plain, [[2.0, 2.0], [1.0, 0.0]])
    unit = mean_embeddings(questions, expansions, of, normalize=True)
    np.testing.assert_allclose(unit, [[0.5**0.5, 0.5**0.5], [1.0, 0.0]], rtol=1e-6)


@pytest.fixture(scope="module")
def loaded(encoder_folder: Path) -> LoadedEncoder:
    return load_encoder(encoder_folder)


@pytest.fixture
def expansions(benchmark: Benchmark) -> Expansions:
    """Two expansions of each question; the first question's are empty, the second has one."""
    texts = [[f"about {i}", f"more of {i * 31 % 7}"] for i in range(benchmark.num_questions)]
    texts[0], texts[1] = ["", ""], ["", "only one"]
    return Expansions(texts, {"settings": {"seed": 5}}, "f" * 64, Path("e.jsonl"))


def ask(loaded: LoadedEncoder, texts: list[str], role: str) -> np.ndarray:
    return np.asarray(encode_texts(loaded, texts, role, progress=False))  # type: ignore[arg-type]


def test_ways_to_combine_are_their_definitions(
    loaded: LoadedEncoder, benchmark: Benchmark, expansions: Expansions
) -> None:
    def found(how: CombineSettings) -> dict[str, object]:
        return evaluate_expanded(loaded, benchmark, expansions, how, progress=False).means  # type: ignore[return-value]

    candidates = ask(loaded, list(benchmark.candidate_texts), "passage")
    questions = ask(loaded, list(benchmark.question_texts), "question")
    texts = [
        " ".join([q, q, q, *filter(None, e)])
        for q, e in zip(benchmark.question_texts, expansions.texts, strict=True)
    ]
    assert (
        found(CombineSettings(repeat=3))
        == evaluate(benchmark, ask(loaded, texts, "question"), candidates).means
    )

    mean = questions.copy()
    runs, owner = [], []
    for row, mine in enumerate(expansions.texts):
        pseudo = ask(loaded, [text for text in mine if text], "passage") if any(mine) else questions[:0]
        mean[row] = (questions[row] + pseudo.sum(axis=0)) / (1 + len(pseudo))
        mean[row] /= np.linalg.norm(mean[row])
        runs += [questions[row : row + 1], pseudo]
        owner += [row] * (1 + len(pseudo))
    wanted = evaluate(benchmark, mean, candidates).means
    got = found(CombineSettings(combine="mean"))
    for setting, values in wanted.items():
        for kind, metrics in values.items():
            assert got[setting][kind] == pytest.approx(metrics, nan_ok=True)  # type: ignore[index]

    ranks, top = fuse_rankings(benchmark, np.concatenate(runs), np.array(owner), candidates, k=9)
    assert found(CombineSettings(combine="rrf", rrf_k=9)) == assemble(benchmark, ranks, top).means


def without_first_component(rows: np.ndarray, language: np.ndarray, fitted: list[np.ndarray]) -> np.ndarray:
    """LIR with one component as it is written: by singular value decomposition, scaled."""
    left = rows.astype(np.float64)
    for number, vectors in enumerate(fitted):
        first = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)[2][0]
        mine = left[language == number]
        left[language == number] = mine - np.outer(mine @ first, first)
    return (left / np.linalg.norm(left, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("combine", ["concatenate", "mean", "rrf"])
def test_language_components_are_removed_in_every_way(
    encoder_folder: Path,
    benchmark_folder: Path,
    benchmark: Benchmark,
    tmp_path: Path,
    combine: Combine,
    texts: bool,
) -> None:
    """The whole job with an expansion file, against removing from every vector by hand."""
    asked = list(zip(benchmark.question_ids, benchmark.question_language.tolist(), strict=True))
    lines = [
        {
            "question_id": question_id,
            "question_language": benchmark.languages[language],
            "expansion_language": benchmark.languages[language],
            "sample": 0,
            "question": benchmark.question_texts[row],
            "text": f"{row * 31 % 7} over {row}",
        }
        for row, (question_id, language) in enumerate(asked)
    ]
    head = {"schema": "hbt_dist.expansions", "schema_version": 1}
    file = tmp_path / "expansions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]), "utf-8")
    for code in benchmark.languages:
        (tmp_path / f"{code}.txt").write_text("".join(f"{code} {i * i}\n" for i in range(20)), "utf-8")
    settings = EvaluationSettings(
        language_removal="lir", language_removal_texts=str(tmp_path) if texts else None
    )
    how = CombineSettings(combine=combine)
    shown = evaluate_job(
        str(encoder_folder),
        BenchmarkSettings(name="jsonl", data_dir=str(benchmark_folder)),
        tmp_path / "out",
        scoring=settings,
        expansions=file,
        combine=how,
        quiet=True,
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    facts = results["provenance"]["language_removal"]
    assert facts["fitted_on"] == ("texts" if texts else "candidates")
    assert "language components removed: 1 per language" in shown

    loaded = load_encoder(encoder_folder)
    candidates = ask(loaded, list(benchmark.candidate_texts), "passage")
    fitted = [
        ask(loaded, [f"{code} {i * i}" for i in range(20)], "question")
        if texts
        else candidates[benchmark.candidate_language == number]
        for number, code in enumerate(benchmark.languages)
    ]
    language, expanded = benchmark.question_language, [str(line["text"]) for line in lines]
    kept = without_first_component(candidates, benchmark.candidate_language, fitted)
    questions = ask(loaded, list(benchmark.question_texts), "question")
    if combine == "rrf":
        runs = np.stack([questions, ask(loaded, expanded, "passage")], axis=1).reshape(-1, 16)
        owner = np.repeat(np.arange(benchmark.num_questions), 2)
        left = without_first_component(runs, language[owner], fitted)
        by_hand = assemble(benchmark, *fuse_rankings(benchmark, left, owner, kept)).means
    else:
        if combine == "concatenate":
            make_room(loaded, how)
            both = zip(benchmark.question_texts, expanded, strict=True)
            vectors = ask(loaded, [f"{question} {text}" for question, text in both], "question")
        else:
            vectors = questions + ask(loaded, expanded, "passage")
        by_hand = evaluate(benchmark, without_first_component(vectors, language, fitted), kept).means
    for setting in ("monolingual", "crosslingual", "multilingual", "one_target"):
        assert results["means"][setting]["macro"] == pytest.approx(by_hand[setting]["macro"])


def test_provenance_says_what_was_done(
    loaded: LoadedEncoder, benchmark: Benchmark, expansions: Expansions
) -> None:
    evaluation = evaluate_expanded(
        loaded,
        benchmark,
        expansions,
        CombineSettings(combine="rrf"),
        provenance={"model": "m"},
        progress=False,
    )
    recorded = evaluation.provenance["expansions"]
    assert evaluation.provenance["model"] == "m"
    assert recorded["fingerprint"] == "f" * 64
    assert (recorded["combine"], recorded["rrf_k"]) == ("rrf", 60)
    assert (recorded["num_expansions"], recorded["num_empty"]) == (24, 3)
    assert recorded["made_with"] == expansions.header
    assert "rank_distance" in evaluation.bias


def test_concatenated_questions_have_room_and_one_prefix(encoder_folder: Path) -> None:
    loaded = load_encoder(encoder_folder)
    text = concatenated("w" * 30, ["x" * 300], 2)
    before = tokenise(loaded, [text], "question").ids[0]
    make_room(loaded, CombineSettings(max_tokens=100))
    after = tokenise(loaded, [text], "question").ids[0]
    assert (len(before), len(after)) == (40, 100)
    assert loaded.tokenizer.decode(after).count("q: ") == 1
    make_room(loaded, CombineSettings(max_tokens=5_000))
    assert loaded.text.max_question_tokens == 200  # the encoder's positions
    make_room(loaded, CombineSettings(max_tokens=10))
    assert loaded.text.max_question_tokens == 200


def test_from_the_command_line(
    language_model: Path, encoder_folder: Path, benchmark_folder: Path, tmp_path: Path
) -> None:
    """expand, then evaluate in the three ways: the whole path with real models."""
    runner = CliRunner()
    data = ["--benchmark", "jsonl", "--data-dir", str(benchmark_folder), "--quiet"]
    file = tmp_path / "expansions.jsonl"
    options = ["--strategy", "rephrase-and-respond", "--samples", "2", "--max-new-tokens", "6"]
    command = ["expand", "--model", str(language_model), *data, "--output", str(file), *options]
    done = runner.invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"written: {file}" in done.output
    macro = {}
    evaluate_ = ["evaluate", "--model", str(encoder_folder), *data]
    for combine in (None, "concatenate", "mean", "rrf"):
        out = tmp_path / f"out-{combine}"
        how = [] if combine is None else ["--expansions", str(file), "--combine", combine]
        done = runner.invoke(app, [*evaluate_, "--output", str(out), *how], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        results = json.loads((out / "results.json").read_text("utf-8"))
        assert set(results["means"]) == {"monolingual", "crosslingual", "multilingual", "one_target"}
        macro[combine] = results["means"]["multilingual"]["macro"]["map"]
        if combine is not None:
            recorded = results["provenance"]["expansions"]
            assert recorded["fingerprint"] == digest_of_file(file)
            assert recorded["made_with"]["settings"]["strategy"] == "rephrase-and-respond"
            room = 200 if combine == "concatenate" else 40
            assert results["provenance"]["text"]["max_question_tokens"] == room
    assert len(set(macro.values())) > 2
    with pytest.raises(UserError, match="need --expansions"):
        runner.invoke(
            app, [*evaluate_, "--output", str(tmp_path / "x"), "--combine", "rrf"], catch_exceptions=False
        )
    with pytest.raises(UserError, match="would all be the same"):
        runner.invoke(app, [*command, "--temperature", "0"], catch_exceptions=False)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_prefix_with_the_name_of_a_language_is_refused_before_anything_is_encoded(
    encoder_folder: Path,
    benchmark_folder: Path,
    tmp_path: Path,
    recorded: bool,
) -> None:
    text = {"question_prefix": "in {language}: "}
    model = tmp_path / "model"
    if recorded:
        loaded = load_encoder(encoder_folder, text=text, quiet=True)
        model.mkdir()
        save_encoder(loaded.encoder, loaded.tokenizer, model)
    with pytest.raises(UserError, match=r"question_prefix: expected a prefix without {language}") as caught:
        evaluate_job(
            str(model),  # is absent, and not missed, if the prefix is given
            BenchmarkSettings(name="jsonl", data_dir=str(benchmark_folder)),
            tmp_path / "out",
            text={} if recorded else text,
            expansions=tmp_path / "absent.jsonl",
            quiet=True,
        )
    assert "leave out --expansions" in str(caught.value)
