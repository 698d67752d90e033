"""Mined negatives as a folder, and the settings that no mining could follow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.mining.mined import MinedNegatives
from hbt_dist.mining.settings import MiningSettings
from hbt_dist.run_file import RunFile
from tests.helpers.runs import tiny_run


def made_negatives(**changes: Any) -> MinedNegatives:
    arrays: dict[str, Any] = {
        "offsets": np.array([0, 2, 2, 3]),
        "passage": np.array([4, 1, 0]),
        "language": np.array([0, 1, 1], np.int32),
        "score": np.array([0.75, 0.5, 0.25], np.float32),
        "positive_score": np.array([0.5, 0.5, 1.0], np.float32),
    }
    return MinedNegatives(corpus="abc", counts={"unfilled": 3}, **(arrays | changes))


def test_a_folder_holds_what_was_saved_and_replaces_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "negatives"
    made_negatives(passage=np.array([9, 9, 9])).save(folder)
    (folder / "manifest.json").unlink()  # killed while it removed the older one
    made_negatives().save(folder)
    opened = MinedNegatives.open(folder)
    assert opened.digest == made_negatives().digest
    assert opened.counts == {"unfilled": 3}
    assert opened.num_examples == 3
    assert opened.passage[opened.offsets[0] : opened.offsets[1]].tolist() == [4, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["negatives"]


@pytest.mark.parametrize("name", ["offsets", "passage", "language", "score", "positive_score"])
def test_the_digest_follows_every_array(name: str) -> None:
    changed = getattr(made_negatives(), name).copy()
    changed[-1] += 1
    assert made_negatives(**{name: changed}).digest != made_negatives().digest


def test_a_folder_of_another_corpus_or_without_an_array_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "negatives"
    made_negatives().save(folder)
    corpus: Any = SimpleNamespace(fingerprint="def")
    with pytest.raises(UserError, match="expected negatives of corpus def, got those of abc"):
        MinedNegatives.open(folder, corpus)
    (folder / "score.npy").unlink()
    with pytest.raises(UserError, match="expected mined negatives"):
        MinedNegatives.open(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": {"passage": 0.5}}, "must have the sum 1, got 0.5"),
        ({"languages": "elsewhere"}, "languages"),
        ({"languages": {"passage": 0.5, "elsewhere": 0.5}}, "languages"),
        ({"rank_min": 10, "rank_max": 12}, "leave 2 candidates for count 4"),
        ({"relative_margin": 5.0}, "less than or equal to 1"),
        ({"rank_min": 10, "rank_max": 5}, "leave 0 candidates"),
        ({"min_score": 0.5, "max_score": 0.25}, "min_score 0.5 is above max_score 0.25"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MiningSettings.model_validate(settings)


def test_shares_are_in_the_order_in_which_lists_choose() -> None:
    shares = {"other": 0.25, "passage": 0.75, "question": 0.0}
    assert list(MiningSettings.model_validate({"languages": shares}).shares().items()) == [
        ("passage", 0.75),
        ("other", 0.25),
    ]
    assert MiningSettings(languages="question").shares() == {"question": 1.0}
    assert MiningSettings(count=3, rank_min=5).window == 36


def test_the_encoder_gets_every_setting_of_the_block() -> None:
    encoding = MiningSettings.model_validate({"encoding": {"device": "cpu", "rows_per_file": 7}}).encoding
    settings = encoding.for_encoder("folder")
    assert (settings.device, settings.rows_per_file, settings.cache_dir) == ("cpu", 7, "folder")


def test_a_run_file_has_the_block_and_none_by_default(tmp_path: Path) -> None:
    assert RunFile.model_validate(tiny_run(tmp_path, tmp_path)).mining is None
    block = {"margin": 0.1, "relative_margin": 0.05, "judge": {"name_or_path": "a/judge"}}
    mining: Any = RunFile.model_validate(tiny_run(tmp_path, tmp_path, mining=block)).mining
    assert (mining.margin, mining.relative_margin, mining.judge.pairs_per_batch) == (0.1, 0.05, 32)
