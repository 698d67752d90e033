"""A run that mines between phases: what it draws, and that it continues exactly wherever it was killed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hbt_dist.batching.flat_prefixes import flat_prefixes
from hbt_dist.batching.resume import check_resume
from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import validate
from hbt_dist.data.corpus.corpus import Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.mining.blocks import MiningPlan, join_blocks, mine_block
from hbt_dist.mining.mined import MinedNegatives
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.export import export_checkpoint
from hbt_dist.training.checkpoints.manifest import read_manifest
from hbt_dist.training.preparation import first_phase, prepare
from hbt_dist.training.settings import TrainingSettings
from tests.helpers.faults import fault
from tests.helpers.runs import losses, tiny_run, weights_digest
from tests.training.conftest import Launch
from tests.training.test_resume import without_dropout

MINING = {"count": 4, "examples_per_block": 16, "encoding": {"rows_per_file": 64}}
#: Phases begin at steps 0, 3 and 6; checkpoints at 2, 3, 4, 6 and 8.
PHASES: dict[str, Any] = {
    "batches__hard_negatives": {"count": 2, "language": "mined"},
    "mining": MINING,
    "training__mine_every": 3,
    "training__mine_at_start": True,
    "training__steps": 8,
    "training__checkpoint_every": 2,
    "training__keep_checkpoints": 3,
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "zero_3": {"deepspeed__config": 3},
    "adapters": {"deepspeed__config": 1, "model__lora": {"rank": 4}},
}
FIGURES = {"mining_seconds", "mined_negatives", "mined_unfilled", "mined_scores"}


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]


def mined_digests(output: Path, step: int = 8) -> dict[str, str]:
    plan = read_manifest(output / "checkpoints" / f"step-{step:010d}")["plan"]
    digests: dict[str, str] = plan["mined"]
    return digests


@pytest.fixture(scope="module")
def whole(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The output folder of an uninterrupted run of two processes with ZeRO 3, or of adapters with ZeRO 1."""
    done: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in done:
            file, done[kind] = launch.file(tmp_path_factory.mktemp(kind), **PHASES, **KINDS[kind])
            launch.finish(file, 2)
        return done[kind]

    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_a_checkpoint_mines_what_the_next_steps_draw(
    kind: str, whole: Callable[..., Path], tmp_path: Path
) -> None:
    output = whole(kind)
    for number, row in enumerate(rows_of(output)):
        assert (row.keys() & FIGURES == FIGURES) == (number in (0, 3, 6))
    assert not (output / "mining").exists()
    assert [path.name for path in (output / "mined").iterdir()] == ["step-0000000006"]
    digests = mined_digests(output)
    assert list(digests) == ["0", "3", "6"]
    assert len(set(digests.values())) == 3
    assert list(mined_digests(output, 6)) == ["0", "3"]
    for folder, has_mined in (("step-0000000008", True), ("step-0000000006", False)):
        assert (output / "checkpoints" / folder / "mined").is_dir() == has_mined

    run = validate(RunFile, yaml.safe_load((output / "run.yaml").read_text("utf-8")), "run.yaml")
    corpus = prepare(run).corpus
    export_checkpoint(output / "checkpoints" / "step-0000000006", tmp_path / "model")
    loaded = load_encoder(tmp_path / "model", text=run.model.text, quiet=True)
    vectors = {}
    roles: tuple[Role, ...] = ("question", "passage")
    for role in roles:
        texts = FlatTexts(corpus, role)
        assert flat_prefixes(texts, loaded.text) is None
        settings = EvaluationSettings(device="cpu", rows_per_file=64)
        vectors[role] = encode_texts(loaded, texts, role, settings=settings, progress=False)
    assert run.mining is not None
    plan = MiningPlan(
        corpus=corpus,
        settings=run.mining,
        seed=run.seed,
        folder=tmp_path,
        questions=vectors["question"],
        candidates=vectors["passage"],
    )
    for block in plan.missing():
        mine_block(plan, block)
    mined = join_blocks(plan)
    assert mined.digest == digests["6"] == MinedNegatives.open(output / "mined" / "step-0000000006").digest
    assert rows_of(output)[6]["mined_negatives"] == len(mined.passage)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_around_a_mining_and_continued(
    launch: Launch, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """One run, killed before and after its second mining, and during its third."""
    file, output = launch.file(tmp_path, **PHASES, **KINDS["zero_3"])
    for step, where in (
        (3, "before_mining"),
        (3, "after_mining"),
        (6, "during_mining"),
    ):
        group = launch.start(file, 2, HBT_DIST_FAULT=fault(f"rank=0,step={step},where={where}"))
        assert group.wait()[0] == -signal.SIGKILL, group.error()
        if where == "after_mining":  # half of the result is lost
            next((output / "mined" / "step-0000000003").glob("score.npy")).unlink()
    launch.finish(file, 2)
    reference = whole("zero_3")
    assert mined_digests(output) == mined_digests(reference)
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_numbers_of_workers_and_a_copy_in_the_storage(launch: Launch, tmp_path: Path) -> None:
    """Without dropout, whose noise depends on the rank. Rank 0 mines for longer than a rank may hang."""
    plain = Launch(launch.cache, without_dropout(launch.start_model, tmp_path / "start"))
    changes = {**PHASES, "deepspeed__config": None}
    file, reference = plain.file(tmp_path / "reference", **changes)
    plain.finish(file, 2)

    file, output = plain.file(tmp_path / "damaged", **changes | {"training__hang_timeout_seconds": 8})
    shutil.copytree(reference, output)
    damaged = output / "checkpoints" / "step-0000000008" / "mined" / "passage.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    group = plain.start(file, 3, HBT_DIST_FAULT=fault(f"rank=0,step=6,where=slow_mining,once={tmp_path}/x"))
    assert group.wait() == [0, 0, 0], group.error()
    log = (output / "log.txt").read_text("utf-8")
    assert "step-0000000008 is passed over: mined/passage.npy does not match its checksum" in log
    assert "continuing from the checkpoint of step 6" in log
    assert mined_digests(output) == mined_digests(reference)
    np.testing.assert_allclose(losses(output), losses(reference), rtol=1e-5)

    changes["training__storage"] = str(tmp_path / "storage")
    file, output = plain.file(tmp_path / "copied", **changes | {"training__steps": 5})
    plain.finish(file, 2)
    shutil.rmtree(output)
    file, output = plain.file(tmp_path / "copied", **changes)
    plain.finish(file, 1)
    log = (output / "log.txt").read_text("utf-8")
    assert "fetched the checkpoint of step 5" in log
    before, after = mined_digests(reference), mined_digests(output)
    assert [before[step] for step in ("0", "3")] == [after[step] for step in ("0", "3")]
    np.testing.assert_allclose(losses(output), losses(reference), rtol=1e-5)


@given(st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_phases_cover_every_step_once(steps: int, every: int, at_start: bool) -> None:
    training = TrainingSettings(steps=steps, mine_every=every, mine_at_start=at_start)
    first, firsts = 0, []
    while first < steps:
        phase = training.phase(first)
        assert all(training.phase(step) == phase for step in phase)
        firsts += [first] if training.mines_before(first) else []
        first = phase.stop
    assert first == steps
    assert firsts == list(range(0 if at_start else every, steps, every))
    assert not any(training.mines_before(step) for step in range(steps) if step not in firsts)
    longer = TrainingSettings(steps=steps + every, mine_every=every, mine_at_start=at_start)
    assert all(longer.phase(step).start == training.phase(step).start for step in range(steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mining": None}, "training.mine_every needs the block mining"),
        ({"batches__hard_negatives": {"count": 0}}, "batches without hard negatives"),
        ({"training__mine_every": 8, "training__mine_at_start": False}, "the run would never mine"),
        ({"training__mine_every": None}, "mine_at_start needs mine_every"),
        ({"mining__pool": "pool.jsonl"}, "mining.pool does not fit training.mine_every"),
        ({"mining__judge": {"name_or_path": "a/b"}}, "mining.judge does not fit training.mine_every"),
        ({"mining__encoding": {"device": "cuda:1"}}, "each worker mines on its device"),
        ({"loss": {"distillation": {"weight": 1.0}}}, "reads a teacher's scores"),
        (
            {
                "mining__languages": "other",
                "batches__hard_negatives": {"count": 1, "language": {"passage": 1}},
            },
            "the share other, which batches.hard_negatives never draws",
        ),
        (
            {"mining__languages": {"passage": 0.5, "question": 0.5}, "batches__hard_negatives": {"count": 1}},
            "share question, which .* language passage: set batches.hard_negatives.language: mined",
        ),
    ],
)
def test_refused_before_the_start(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    run = {**PHASES, "mining": dict(MINING), **{key: changes[key] for key in changes if key == "mining"}}
    rest = {key: value for key, value in changes.items() if key != "mining"}
    with pytest.raises(ValidationError, match=message):
        RunFile.model_validate(tiny_run(tmp_path, tmp_path, **run | rest))


def test_only_what_decides_negatives_keeps_a_run_from_continuing(tmp_path: Path) -> None:
    def state(**changes: Any) -> dict[str, Any]:
        run = tiny_run(tmp_path, tmp_path, **PHASES | {"mining": {**MINING, **changes}})
        phase = first_phase(RunFile.model_validate(run))
        assert phase is not None
        return phase.state

    before = state()
    assert before == state(examples_per_block=99, encoding={"max_tokens_per_batch": 9, "rows_per_file": 9})
    check_resume(before, state(encoding={"device": "cpu"}))
    with pytest.raises(UserError, match=r"mining\.count was 4, is 5"):
        check_resume(before, state(count=5))
    with pytest.raises(UserError, match="dtype was auto, is bfloat16"):
        check_resume(before, state(encoding={"dtype": "bfloat16"}))
