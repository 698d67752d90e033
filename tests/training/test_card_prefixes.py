"""The model card reports the prefixes of the exported encoder, also those of its folder."""

from __future__ import annotations

from pathlib import Path

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.card import model_card
from tests.models.test_prompts import folder_of


def test_the_card_has_the_prefixes_of_the_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", include=False, lowercase=True)
    source = {"name": "sample", "format": "sample", "question_prefix": "in {language}: "}
    run = RunFile.model_validate(
        {
            "name": "card",
            "output_dir": str(tmp_path / "run"),
            "data": {"sources": [source], "languages": ["en", "fi"], "cache_dir": str(tmp_path / "cache")},
            "batches": {"global_batch_size": 8, "mixture": [{"kind": "monolingual"}]},
            "model": {"name_or_path": str(folder), "text": {"passage_prefix": "p: "}},
            "training": {"steps": 2},
        }
    )
    corpus = build_corpus(run.data)
    loaded = load_encoder(folder, text=run.model.text, quiet=True)
    card = model_card(run, corpus, BatchPlan(corpus, run.batches, 0), loaded.exported_text)
    line = card.strip().splitlines()[-1]
    assert line.startswith(
        "Question prefix: `'query: '`, passage prefix: `'p: '`; pooling leaves their tokens out"
    )
    assert "texts are lower-cased" in line
    assert "{language} stands for the English name" in line
    assert "sources were trained with 'in {language}: '." in line
