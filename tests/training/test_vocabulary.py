"""`model.vocabulary: used` in a run: the start model, its vectors, what is recorded, exported and refused."""

from __future__ import annotations

import functools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.jobs.train import train_job
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.folders import recorded_prompts
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.tokenising import tokenise
from hbt_dist.models.vocabulary import Cut
from hbt_dist.run_file import RunFile
from hbt_dist.training import vocabulary
from hbt_dist.training.checkpoints.export import export_checkpoint
from hbt_dist.training.preparation import describe_data, prepare
from hbt_dist.training.vocabulary import check_languages
from tests.helpers.faults import fault
from tests.helpers.runs import losses, tiny_run, weights_digest, write_run
from tests.models.vocabularies import KINDS, save_model
from tests.training.conftest import Launch

TEXT = {"max_question_tokens": 24, "max_passage_tokens": 32, "passage_prefix": "passage: "}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model folders whose tokenizers know five languages; the runs have three of them."""
    source = {"name": "sample", "format": "sample", "languages": ["en", "fi", "hu", "ru", "ja"]}
    corpus = build_corpus(
        DataSettings.model_validate({"sources": [source]}), tmp_path_factory.mktemp("cache")
    )
    texts = [text for code in corpus.languages for text in corpus.passage_texts(code) if text is not None]
    texts += ["query: passage: "] * 50
    return functools.cache(lambda kind: save_model(tmp_path_factory.mktemp("model"), kind, texts))


def run_of(tmp_path: Path, model: Path, **changes: Any) -> dict[str, Any]:
    settings = {"name_or_path": str(model), "vocabulary": "used", "text": TEXT}
    return tiny_run(tmp_path / "out", tmp_path / "cache", model=settings, **changes)


def vectors(loaded: LoadedEncoder, texts: list[str]) -> torch.Tensor:
    ids = tokenise(loaded.tokenizer, texts, 32, loaded.text.passage_prefix).ids
    rows = [torch.as_tensor(row, dtype=torch.int64) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, True, loaded.tokenizer.pad_token_id)
    mask = (torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
    with torch.no_grad():
        return loaded.encoder.eval()(padded, mask)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "unigram" else pytest.mark.slow) for kind in KINDS]
)
def test_a_run_starts_from_a_smaller_model_with_equal_vectors(
    kind: str, models: Callable[[str], Path], tmp_path: Path
) -> None:
    run = RunFile.model_validate(run_of(tmp_path, models(kind)))
    prepared = prepare(run)
    before = load_encoder(models(kind), text=TEXT)
    corpus, after = prepared.corpus, prepared.model
    texts = [text for code in corpus.languages for text in corpus.passage_texts(code) if text is not None]
    torch.testing.assert_close(vectors(after, texts), vectors(before, texts), rtol=0, atol=1e-6)
    config: Any = after.encoder.backbone.config
    assert config.vocab_size == len(after.tokenizer) < 0.9 * len(before.tokenizer)
    for name in ("pad", "bos", "eos"):
        assert getattr(config, f"{name}_token_id") == getattr(after.tokenizer, f"{name}_token_id")
    facts = after.facts["vocabulary"]
    assert facts["after"] == len(after.tokenizer)
    parts = ("in_texts", "of_languages", "characters_and_special", "for_merges")
    assert facts["after"] == sum(facts[part] for part in parts)
    assert any(line.startswith(f"vocabulary: {facts['after']:,} of") for line in describe_data(run, prepared))
    made = (tmp_path / "out" / "start" / "model.safetensors").stat().st_mtime_ns
    assert prepare(run).fingerprint == prepared.fingerprint
    assert (tmp_path / "out" / "start" / "model.safetensors").stat().st_mtime_ns == made


def test_the_cut_is_the_same_every_time(models: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = (
        prepare(RunFile.model_validate(run_of(tmp_path / name, models("unigram")))).fingerprint
        for name in ("first", "second")
    )
    assert first == second


def test_languages_keep_their_script(models: Callable[[str], Path], tmp_path: Path) -> None:
    run = RunFile.model_validate(run_of(tmp_path, models("unigram"), model__vocabulary_languages=["ru"]))
    after, before = prepare(run).model, load_encoder(models("unigram"), text=TEXT)
    assert after.facts["vocabulary"]["of_languages"] > 50
    text = "валюта страны Финляндия"
    assert after.tokenizer.tokenize(text) == before.tokenizer.tokenize(text)
    torch.testing.assert_close(vectors(after, [text]), vectors(before, [text]), rtol=0, atol=1e-6)


def test_a_benchmark_in_a_language_that_would_be_cut_is_refused(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    benchmark = {"name": "sample", "languages": ["en", "ru"]}
    changes = {"evaluation__benchmarks": [benchmark]}
    run = run_of(tmp_path, models("unigram"), **changes)
    with pytest.raises(UserError, match="has ru, which the corpus lacks") as caught:
        prepare(RunFile.model_validate(run))
    assert "set model.vocabulary_languages: [ru]" in str(caught.value)
    run["model"]["vocabulary_languages"] = ["uk"]
    prepare(RunFile.model_validate(run))


@pytest.mark.parametrize("languages", [["en", "ru"], None])
def test_it_is_refused_before_anything_is_evaluated(
    languages: list[str] | None, models: Callable[[str], Path], tmp_path: Path
) -> None:
    benchmark = {"name": "sample", "languages": languages}  # without languages: all that it has
    run = run_of(
        tmp_path, models("unigram"), evaluation={"benchmarks": [benchmark], "when": ["start", "end"]}
    )
    with pytest.raises(UserError, match=r"benchmark sample: has .*ru.*, which the corpus lacks"):
        train_job(RunFile.model_validate(run), "ray", quiet=True)
    assert not (tmp_path / "out" / "evaluation").exists()
    for key in ("benchmarks", "checkpoint_benchmarks"):
        run["evaluation"] = {key: [benchmark]}
        with pytest.raises(UserError, match="which the corpus lacks"):
            check_languages(RunFile.model_validate(run))
    run["model"]["vocabulary"] = "keep"
    check_languages(RunFile.model_validate(run))


def test_pieces_of_the_prefixes_of_benchmarks_stay(models: Callable[[str], Path], tmp_path: Path) -> None:
    before = load_encoder(models("unigram"))
    prefix = "Столица страны {language}: "
    text = prefix.replace("{language}", "Russian")
    benchmark = {"name": "sample", "languages": ["en"]}
    run = run_of(tmp_path, models("unigram"), evaluation__benchmarks=[benchmark])
    without = prepare(RunFile.model_validate(run)).model.tokenizer
    assert without.tokenize(text) != before.tokenizer.tokenize(text)
    run["evaluation"]["benchmarks"] = [{**benchmark, "question_prefix": prefix}]
    after = prepare(RunFile.model_validate(run)).model
    assert after.tokenizer.tokenize(text) == before.tokenizer.tokenize(text)
    assert after.facts["vocabulary"]["of_prefixes"] > 0
    assert len(after.tokenizer) == sum(
        after.facts["vocabulary"][part]
        for part in ("in_texts", "of_prefixes", "of_languages", "characters_and_special", "for_merges")
    )
    (tmp_path / "out" / "checkpoints" / "step-0000000002").mkdir(parents=True)
    run["evaluation"]["benchmarks"] = []  # a resumed run keeps the vocabulary of its first start
    assert len(prepare(RunFile.model_validate(run)).model.tokenizer) == len(after.tokenizer)
    run["evaluation"]["benchmarks"] = [{**benchmark, "question_prefix": "Найди: "}]
    with pytest.raises(UserError, match="a benchmark has a new prefix, 'Найди: '"):
        prepare(RunFile.model_validate(run))


def test_pieces_of_the_names_of_languages_in_the_prefix_of_the_model_stay(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    run = run_of(tmp_path, models("unigram"))
    run["model"]["text"] = {**TEXT, "question_prefix": "{language}: "}
    after = prepare(RunFile.model_validate(run)).model
    assert after.facts["vocabulary"]["of_prefixes"] > 0
    before = load_encoder(models("unigram")).tokenizer
    assert after.tokenizer.tokenize("Japanese: ") == before.tokenize("Japanese: ")


def test_other_prompts_of_the_model_stay(models: Callable[[str], Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(models("unigram"), model)
    prompts = {"query": "", "document": "", "clustering": "group: "}
    described = {"prompts": prompts, "default_prompt_name": "clustering"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(described), "utf-8")
    run = RunFile.model_validate(run_of(tmp_path, model))
    assert prepare(run).model.prompts.by_name["clustering"] == "group: "
    kept = recorded_prompts(tmp_path / "out" / "start")
    assert (kept.by_name["clustering"], kept.default) == ("group: ", "clustering")


def test_a_tokenizer_that_reads_otherwise_after_its_cut_is_refused(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge is dropped on purpose."""

    def with_fault(*given: Any) -> Cut:
        cut = cut_pieces(*given)
        del cut.described["model"]["merges"][5]
        return cut

    cut_pieces = vocabulary.cut_pieces
    monkeypatch.setattr(vocabulary, "cut_pieces", with_fault)
    run = RunFile.model_validate(run_of(tmp_path, models("character pairs")))
    with pytest.raises(UserError, match="in en have other pieces after the cut of its tokenizer"):
        prepare(run)
    assert not (tmp_path / "out" / "start").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "byte level"])
def test_a_run_is_resumed_exported_and_loaded(
    kind: str, models: Callable[[str], Path], launch: Launch, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    changes = {"deepspeed__config": 2, "training__steps": 4, "training__checkpoint_every": 2}
    outputs = []
    for name, variables in (
        ("reference", {}),
        ("killed", {"HBT_DIST_FAULT": fault("rank=0,step=3,where=before_forward")}),
    ):
        run = run_of(tmp_path / name, models(kind), **changes)
        (tmp_path / name).mkdir()
        file = write_run(tmp_path / name / "run.yaml", run)
        outputs.append(tmp_path / name / "out")
        if variables:
            assert launch.start(file, 2, **variables).wait()[0] == -signal.SIGKILL
        launch.finish(file, 2)
    reference, output = outputs
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)
    size = json.loads((output / "model" / "config.json").read_text("utf-8"))["vocab_size"]
    weights = load_file(output / "model" / "model.safetensors")
    assert size in {len(value) for value in weights.values()}
    assert json.loads((output / "model" / "hbt_dist.json").read_text("utf-8"))["training"]["vocabulary"]
    texts = ["passage: what is the currency of Finland", "passage: mikä on maan pääkaupunki"]
    theirs = SentenceTransformer(str(output / "model"), device="cpu").encode(texts, convert_to_tensor=True)
    loaded = load_encoder(output / "model")
    ours = vectors(loaded, [text.removeprefix("passage: ") for text in texts])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    run["model"]["vocabulary"] = "keep"
    other = launch.start(write_run(tmp_path / "keep.yaml", run), 1)
    assert other.wait() == [2]
    assert "holds another run (model.vocabulary: used there, keep now)" in other.error()


@pytest.mark.slow
def test_frozen_embeddings_are_those_of_the_cut_model(
    models: Callable[[str], Path], launch: Launch, tmp_path: Path
) -> None:
    """It is in the run's folder: the uncut model may change or go."""
    named = tmp_path / "named"
    shutil.copytree(models("unigram"), named)
    frozen = {"optimizer__parts": {"freeze_embeddings": True}, "training__steps": 2}
    run = run_of(tmp_path, named, **frozen)
    launch.finish(write_run(tmp_path / "run.yaml", run), 1)
    shutil.rmtree(named)
    export_checkpoint(tmp_path / "out", tmp_path / "exported")
    start = tmp_path / "out" / "start" / "config.json"
    start.write_text(start.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(UserError, match="is not the model that the checkpoint of step 2 began with"):
        export_checkpoint(tmp_path / "out", tmp_path / "new")
