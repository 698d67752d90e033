"""Faults of whole runs: processes of Ray, weights that go bad, two runs in one folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.files import sha256_of
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import load_run
from hbt_dist.training.checkpoints.manifest import verify
from tests.helpers.faults import fault
from tests.helpers.runs import BIN, finish, losses, session_of, start, weights_digest
from tests.helpers.workers import Workers
from tests.training.conftest import Launch
from tests.training.test_resume import assert_same, steps_done, wait_for_step

Finished = Callable[..., Path]
RAY_SECONDS = 400  # a start takes 20 seconds on two quiet cores, minutes on busy ones
PATIENT = {"workers__start_timeout_seconds": 300}


def digests(folder: Path) -> dict[str, str]:
    return {str(path): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def message(group: Workers) -> str:
    """The error that the command line ended with."""
    _, found, text = group.error().partition("error: ")
    return found + text


def poison(model: Path, folder: Path, token: int) -> None:
    """A model that breaks at one token: its embedding is finite, the layer norm of it is not."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][token] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
def test_poisoned_batch_stops_within_its_step(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path / "clean")
    run = load_run(str(file))
    corpus = build_corpus(run.data, launch.cache)
    plan = BatchPlan(corpus, run.batches, run.seed)
    tokenizer = load_encoder(launch.start_model).tokenizer
    tokens = []  # step -> token -> examples whose question has it
    for step in range(run.training.steps):
        batch, found = plan.batch(step), {}
        for example, question, passage in zip(
            batch.example, batch.question_language, batch.passage_language, strict=True
        ):
            texts = [
                corpus.question_text(int(example), corpus.languages[question]),
                corpus.passage_text(int(corpus.example_passage[example]), corpus.languages[passage]),
            ]
            for text, limit in zip(texts, (24, 32), strict=True):
                for token in tokenizer(text, truncation=True, max_length=limit)["input_ids"]:
                    found.setdefault(token, set()).add(corpus.example_id(int(example)))
        tokens.append(found)
    step, token = next(
        (step, token)
        for step in range(2, len(tokens))
        for token in tokens[step]
        if len(tokens[step][token]) == 1 and not any(token in earlier for earlier in tokens[:step])
    )
    poison(launch.start_model, tmp_path / "poisoned", token)
    own = Launch(launch.cache, tmp_path / "poisoned")
    changes = {"deepspeed__config": 2, "training__checkpoint_every": 1, "optimizer__learning_rate": 1e-4}
    file, output = own.file(tmp_path / "run", **changes)
    group = own.start(file, 2)
    assert group.wait() == [2, 2]
    error = message(group)
    assert error.startswith(f"error: step {step}: NaN or infinity in the embedding of a ")
    (example,) = tokens[step][token]
    assert f"examples {example}\n" in error
    assert "the last complete checkpoint is untouched" in error
    assert "Traceback" not in error
    assert verify(output / "checkpoints" / f"step-{step:010d}", step)[0] is None
    assert not (output / "model").exists()
    before = digests(output / "checkpoints")
    again = own.start(file, 2)  # it cannot help, and it harms nothing
    assert again.wait() == [2, 2]
    assert digests(output / "checkpoints") == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1])
def test_absurd_learning_rate(stage: int | None, launch: Launch, tmp_path: Path) -> None:
    changes = {"optimizer__learning_rate": 1e30, "training__checkpoint_every": 1, "deepspeed__config": stage}
    file, output = launch.file(tmp_path, **changes)
    group = launch.start(file, 1)
    assert group.wait() == [2]
    assert message(group).startswith("error: step ")
    assert "Lower optimizer.learning_rate" in group.error()
    assert "Traceback" not in group.error()
    assert not (output / "model").exists()
    for checkpoint in (output / "checkpoints").glob("step-*"):
        assert verify(checkpoint)[0] is None


@pytest.mark.slow
def test_two_runs_in_one_folder(launch: Launch, tmp_path: Path) -> None:
    file, output = launch.file(tmp_path, training__steps=20_000, deepspeed__config=None)
    first = launch.start(file, 1)
    wait_for_step(output, 1, first)
    second = launch.start(file, 1)
    assert second.wait() == [2]
    assert "another run is writing to this folder" in second.error()
    wait_for_step(output, steps_done(output) + 1, first)  # it goes on
    first.signal(0)
    assert first.wait() == [-signal.SIGKILL]
    third = launch.start(file, 1)  # the lock has ended with its process
    deadline = time.monotonic() + 120
    while len(json.loads((output / "provenance.json").read_text("utf-8"))) < 2:
        assert time.monotonic() < deadline, third.error()
        time.sleep(0.01)
    third.signal(0, signal.SIGTERM)
    assert third.wait() == [0], third.error()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["model.tmp", "out"])
def test_what_rank_0_cannot_write_ends_all(place: str, launch: Launch, tmp_path: Path) -> None:
    """A file lies where a folder is needed: in the way of the model, or of the run."""
    file, output = launch.file(tmp_path / "run", training__steps=1, deepspeed__config=None)
    if place == "out":
        output.write_text("in the way")
    else:
        output.mkdir()
        (output / place).write_text("in the way")
    group = launch.start(file, 2)
    assert group.wait() == [2, 2]
    assert "cannot be written: File exists" in message(group)
    assert "Traceback" not in group.error()


def test_malformed_fault_is_refused(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path, deepspeed__config=None)
    group = launch.start(file, 1, HBT_DIST_FAULT=fault("rank=0,where=lunch"))
    assert group.wait() == [2]
    assert message(group).startswith("error: HBT_DIST_FAULT: is 'rank=0,where=lunch'")


def on_ray(file: Path, **environment: str) -> psutil.Popen:
    command = [BIN / "hbt-dist", "train", file, "--quiet"]
    return start(command, file.parent, **environment)


def end_on_ray(file: Path, output: Path, reference: Path) -> None:
    process = on_ray(file)
    code, _, err = finish(process, RAY_SECONDS)
    assert code == 0, err[-3000:]
    assert session_of(process.pid) == []
    assert_same(output, reference)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_ray_worker_killed(launch: Launch, finished: Finished, tmp_path: Path) -> None:
    """Ray starts the workers again; one command, no hands."""
    file, output = launch.file(tmp_path, deepspeed__config=2, **PATIENT)
    mark = tmp_path / "died"
    process = on_ray(file, HBT_DIST_FAULT=fault(f"rank=1,step=4,where=in_collective,once={mark}"))
    code, _, err = finish(process, RAY_SECONDS)
    assert code == 0, err[-3000:]
    assert mark.exists()
    assert "continuing from the checkpoint of step 2" in (output / "log.txt").read_text("utf-8")
    assert_same(output, finished(2))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("victim", ["driver", "raylet"])
def test_ray_process_killed(victim: str, launch: Launch, finished: Finished, tmp_path: Path) -> None:
    """The same command continues; nothing of the dead cluster is left."""
    reference = finished(1)
    file, output = launch.file(tmp_path, deepspeed__config=1, **PATIENT)
    # Rank 0 is held at step 5 for as long as the test needs to find and kill its victim.
    process = on_ray(file, HBT_DIST_FAULT=fault("rank=0,step=5,where=hang"))
    deadline = time.monotonic() + RAY_SECONDS
    while steps_done(output) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
    else:
        raylets = [p for p in session_of(process.pid) if p.name() == "raylet"]
        assert len(raylets) == 1
        raylets[0].kill()
    code, _, _ = finish(process, RAY_SECONDS)
    assert code != 0
    deadline = time.monotonic() + 120  # Ray's agents look for their raylet now and then
    while session_of(process.pid):
        assert time.monotonic() < deadline, session_of(process.pid)
        time.sleep(0.2)
    assert losses(output)[:4] == losses(reference)[:4]
    assert not (output / "model").exists()
    end_on_ray(file, output, reference)
    assert weights_digest(output) == weights_digest(reference)
