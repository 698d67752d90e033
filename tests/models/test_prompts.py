"""Prompts and their flags: vectors are those of sentence-transformers, for its folders and exported ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from hbt_dist.batching.tokens import TokenRows
from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.tokenising import tokenise
from tests.models.kinds import save_kind

TEXTS = ["What is the capital of Finland", "Helsinki", "mikä on Suomen pääkaupunki ja missä se on", "is it"]
PROMPTS = {"query": "query: ", "document": "the text is", "corpus": "c: ", "s2p": "is: "}
POOLINGS = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
SCORING = EvaluationSettings(device="cpu", max_tokens_per_batch=40)


def folder_of(
    folder: Path,
    kind: str = "bert",
    *,
    pooling: str = "mean",
    prompts: dict[str, Any] | None = None,
    default: str | None = None,
    include: bool = True,
    lowercase: bool = False,
    ends: bool = True,
) -> Path:
    """Write a folder as sentence-transformers does; without `ends` its tokenizer adds no end token."""
    save_kind(folder, kind)
    if not ends:
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        tokenizer["post_processor"]["single"].pop()
        file.write_text(json.dumps(tokenizer))
    modes = {f"pooling_mode_{mode}": mode == POOLINGS[pooling] for mode in POOLINGS.values()}
    (folder / "1_Pooling").mkdir()
    files = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{module}"}
            for i, (path, module) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "include_prompt": include, **modes},
        "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": lowercase},
        "config_sentence_transformers.json": {
            "prompts": PROMPTS if prompts is None else prompts,
            "default_prompt_name": default,
            "similarity_fn_name": "dot",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def vectors(loaded: LoadedEncoder, role: Any, texts: list[str] = TEXTS) -> np.ndarray:
    return np.asarray(encode_texts(loaded, texts, role, settings=SCORING, progress=False))


def assert_equal_vectors(loaded: LoadedEncoder, folder: Path) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(vectors(loaded, "question"), theirs.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(vectors(loaded, "passage"), theirs.encode_document(TEXTS), atol=1e-5)


def exported(loaded: LoadedEncoder, folder: Path) -> Path:
    folder.mkdir()
    save_encoder(loaded.encoder, loaded.tokenizer, folder, prompts=loaded.prompts)
    return folder


def assert_three_agree(folder: Path, tmp_path: Path) -> LoadedEncoder:
    """Our vectors are those of sentence-transformers, for the folder and for its export."""
    loaded = load_encoder(folder, quiet=True)
    assert_equal_vectors(loaded, folder)
    again = exported(loaded, tmp_path / "exported")
    assert_equal_vectors(load_encoder(again, quiet=True), again)
    first = SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(vectors(load_encoder(again, quiet=True), "question"), first, atol=1e-5)
    return loaded


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("kind", "ends"),
    [("bert", True), ("xlm-roberta", True), ("qwen3", True), ("llama", False), ("bert", False)],
)
def test_prompts_that_pooling_leaves_out(kind: str, ends: bool, pooling: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", kind, pooling=pooling, include=False, ends=ends)
    loaded = assert_three_agree(folder, tmp_path)
    assert not loaded.text.include_prompt
    if pooling == "cls" and kind in ("qwen3", "llama"):  # the first token of a causal model sees no text
        with pytest.raises(UserError, match="pooling cls of a causal model"):
            load_encoder(folder, text={"include_prompt": True}, quiet=True)
        return
    counted = load_encoder(folder, text={"include_prompt": True}, quiet=True)
    difference = np.abs(vectors(counted, "question") - vectors(loaded, "question")).max()
    assert (difference > 1e-3) == (pooling != "last")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "qwen3"])
def test_padded_packed_and_training_rows_agree(kind: str, pooling: str, tmp_path: Path) -> None:
    """Rows of the token store give the vectors of evaluation; packing changes nothing."""
    folder = folder_of(tmp_path / "theirs", kind, pooling=pooling, include=False)
    want = vectors(load_encoder(folder, quiet=True), "question")
    for implementation in ("auto", "eager"):
        loaded = load_encoder(folder, quiet=True, attention_implementation=implementation)  # type: ignore[arg-type]
        tokens = tokenise(loaded.tokenizer, TEXTS, 40, "query: ")
        offsets = np.concatenate([[0], np.cumsum(tokens.lengths)])
        rows = TokenRows(np.concatenate(tokens.ids), offsets, 1, tokens.prompts.astype(np.int32))
        ids, mask = rows.pad()
        assert mask.max() == 2
        left_ids, left_mask = (
            torch.stack([row.roll(-int(n)) for row, n in zip(part, rows.lengths, strict=True)])
            for part in (ids, mask)
        )
        encoder = loaded.encoder
        with torch.no_grad():
            got = [encoder(ids, mask), encoder(ids, mask, rows.lengths.tolist())]
            if kind == "qwen3":
                got.append(encoder(left_ids, left_mask))
            backward = rows.pad(np.array([2, 0]))
            np.testing.assert_allclose(encoder(*backward), want[[2, 0]], atol=1e-5)
        for part in got:
            np.testing.assert_allclose(part, want, atol=1e-5)


@pytest.mark.parametrize("prefix", ["query: ", "query:", "what is the cap", "Finland"])
def test_a_prefix_that_shares_a_token_with_the_text(prefix: str, tmp_path: Path) -> None:
    """sentence-transformers counts the prefix alone: so do we, also where a token reaches into the text."""
    folder = folder_of(tmp_path / "theirs", "qwen3", include=False, prompts={"query": prefix})
    assert_three_agree(folder, tmp_path)


@pytest.mark.parametrize("kind", ["qwen3", "xlm-roberta", "bert"])
def test_texts_are_lower_cased(kind: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", kind, lowercase=True)
    loaded = assert_three_agree(folder, tmp_path)
    assert loaded.text.lowercase
    normalizer = json.loads((tmp_path / "exported" / "tokenizer.json").read_text())["normalizer"]
    assert json.dumps(normalizer).count("Lowercase") == 1
    if kind != "bert":  # whose tokenizer lower-cases without the flag
        as_written = load_encoder(folder, text={"lowercase": False}, quiet=True)
        assert np.abs(vectors(as_written, "passage") - vectors(loaded, "passage")).max() > 1e-3


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        (PROMPTS, None),
        (PROMPTS, "s2p"),
        ({"query": "q: ", "passage": "p: ", "document": "text: "}, None),
        ({"query": "q: ", "passage": "p: "}, None),
        ({"query": "q: ", "corpus": "c: "}, "corpus"),
        ({"document": "d: ", "query": None}, "document"),
        ({"s2p": "is: "}, "s2p"),
        ({}, None),
    ],
)
def test_names_of_prompts(prompts: dict[str, Any], default: str | None, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", prompts=prompts, default=default)
    loaded = assert_three_agree(folder, tmp_path)
    file = tmp_path / "exported" / "config_sentence_transformers.json"
    written = json.loads(file.read_text())
    assert written["default_prompt_name"] == default
    kept = {name: text for name, text in prompts.items() if name not in ("query", "document", "passage")}
    assert kept.items() <= written["prompts"].items()
    surprising = any(prompts.get(name) for name in ("passage", "corpus")) and not prompts.get("document")
    line = [note for note in loaded.notes if "are not used" in note]
    assert len(line) == (surprising or default in ("s2p", "corpus"))


def test_a_default_prompt_without_a_text_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", default="retrieval")
    with pytest.raises(UserError, match="default_prompt_name is 'retrieval', expected one of"):
        load_encoder(folder)


def test_a_prompt_that_fills_the_limit_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", "qwen3")
    with pytest.raises(UserError, match="tokens, but a text has at most 8"):
        vectors(load_encoder(folder, text={"max_question_tokens": 8}, quiet=True), "question")


def test_lowercase_needs_a_tokenizer_that_can(tmp_path: Path) -> None:
    from hbt_dist.models.tokenizer import lower_case

    with pytest.raises(UserError, match="do_lower_case"):
        lower_case(object(), "model")


def test_an_old_folder_of_this_package_loads(tmp_path: Path) -> None:
    again = exported(load_encoder(folder_of(tmp_path / "theirs"), quiet=True), tmp_path / "old")
    file = again / "hbt_dist.json"
    content = json.loads(file.read_text())
    for key in ("include_prompt", "lowercase"):
        del content["text"][key]
    file.write_text(json.dumps(content))
    shutil.rmtree(again / "1_Pooling")
    (again / "1_Pooling").mkdir()
    (again / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    )
    assert load_encoder(again, quiet=True).text.include_prompt
