"""Training on Ray: stopped and measured meanwhile; and with fewer workers after a node is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.training.checkpoints.manifest import verify
from tests.helpers.faults import fault
from tests.helpers.ray_head import Head, cut_off, running_head
from tests.helpers.runs import (
    BIN,
    finish,
    hbt_dist,
    left_behind,
    losses,
    start,
    tiny_run,
    weights_digest,
    write_run,
)

DEV = {"name": "sample", "variant": "dev", "languages": ["de", "fi"]}
SECONDS = 400  # a start takes 20 seconds on two quiet cores, minutes on busy ones

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]


def wait_for_steps(output: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    metrics = output / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text("utf-8").splitlines()) < steps:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_sigterm_saves_and_the_same_command_continues(tmp_path: Path) -> None:
    """The checkpoints are measured by Ray tasks meanwhile, each once."""
    output, cache = tmp_path / "out", tmp_path / "cache"
    changes: dict[str, Any] = {
        "training__steps": 240,
        "training__checkpoint_every": 120,
        "deepspeed__config": 1,
    }
    run = tiny_run(output, cache, evaluation={"checkpoint_benchmarks": [DEV]}, **changes)
    file = write_run(tmp_path / "run.yaml", run)
    process = start([BIN / "hbt-dist", "train", file], tmp_path)
    wait_for_steps(output, 2, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process, SECONDS)
    assert code == 0, err[-3000:]
    assert left_behind(process.pid) == []
    stopped = len(losses(output))
    assert f"stopped at step {stopped} as asked; the same command continues" in out
    assert stopped < 240
    assert verify(output / "checkpoints" / f"step-{stopped:010d}", stopped)[0] is None
    assert not (output / "model").exists()

    code, out, err = hbt_dist("train", file, cwd=tmp_path, timeout=SECONDS)
    assert code == 0, err[-3000:]
    assert f"continuing from the checkpoint of step {stopped}" in (output / "log.txt").read_text("utf-8")
    label = BenchmarkSettings.model_validate(DEV).label
    lines = [json.loads(line) for line in (output / "validation.jsonl").read_text("utf-8").splitlines()]
    assert [(line["step"], line["benchmark"]) for line in lines] == [
        (step, label) for step in sorted({stopped, 120, 240})
    ]
    assert f"step 240 on {label}: monolingual" in out + err

    reference = tmp_path / "reference" / "out"
    reference.parent.mkdir()
    alone = write_run(tmp_path / "reference" / "run.yaml", tiny_run(reference, cache, **changes))
    code, _, err = hbt_dist("train", alone, "--quiet", cwd=tmp_path, timeout=SECONDS)
    assert code == 0, err[-3000:]
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)


@pytest.fixture
def head() -> Iterator[Head]:
    with running_head(num_cpus=1) as head:
        yield head


def test_a_start_announces_its_phases_and_refuses_a_missing_gpu_at_once(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache", training__steps=2, training__checkpoint_every=2)
    file = write_run(tmp_path / "run.yaml", run)
    code, out, err = hbt_dist("train", file, cwd=tmp_path, timeout=SECONDS)
    assert code == 0, err[-3000:]
    starts = (
        "tiny: training with 2 Ray workers",
        "starting Ray",
        "starting 2 workers",
        "loading model and texts",
        "loading DeepSpeed",
        "building the engine",
        "corpus: ",
        "trained 2 steps",
    )
    lines = [line for line in out.splitlines() if line.startswith(starts)]
    assert [line.startswith(begin) for line, begin in zip(lines, starts, strict=True)] == [True] * len(starts)

    code, out, err = hbt_dist(
        "train", file, "workers.use_gpu=true", "output_dir=other", cwd=tmp_path, timeout=SECONDS
    )
    assert code != 0
    assert "this machine has 2 CPU and 0 GPU" in err
    assert "starting Ray" not in out


@pytest.mark.cluster
def test_a_lost_node_leaves_fewer_workers(head: Head, tmp_path: Path) -> None:
    """Two nodes with a worker each; one is killed, the run ends on the other with the same losses."""
    node = head.add_node(1)
    output, cache = tmp_path / "out", tmp_path / "cache"
    changes: dict[str, Any] = {
        "training__steps": 12,
        "training__checkpoint_every": 2,
        "deepspeed__config": 1,
        "model__scratch__architecture__hidden_dropout_prob": 0.0,
        "model__scratch__architecture__attention_probs_dropout_prob": 0.0,
    }
    # Ray may take the dead node for alive and wait for it as long as a start may take.
    workers: dict[str, Any] = {
        "num_workers": 2,
        "min_workers": 1,
        "placement": "SPREAD",
        "start_timeout_seconds": 60,
    }
    workers["address"] = f"127.0.0.1:{head.port}"
    file = write_run(tmp_path / "run.yaml", tiny_run(output, cache, workers=workers, **changes))
    once = tmp_path / "held"
    process = start(
        [BIN / "hbt-dist", "train", file],
        tmp_path,
        HBT_DIST_FAULT=fault(f"rank=1,step=5,where=hang,once={once}"),
    )
    wait_for_steps(output, 4, process)
    cut_off(node)
    code, out, err = finish(process, SECONDS)
    assert code == 0, out[-3000:] + err[-3000:]
    log = (output / "log.txt").read_text("utf-8")
    assert "the checkpoint was written by 2 workers; converted for 1" in log
    reference = tmp_path / "reference" / "out"
    reference.parent.mkdir()
    alone = write_run(tmp_path / "reference" / "run.yaml", tiny_run(reference, cache, **changes))
    code, _, err = hbt_dist("train", alone, "--quiet", cwd=tmp_path, timeout=SECONDS)
    assert code == 0, err[-3000:]
    np.testing.assert_allclose(losses(output), losses(reference), rtol=1e-4)
    # AdamW and clipping hide a gradient that is off by the number of workers; its norm does not.
    norms = [
        [
            json.loads(line)["gradient_norm"]
            for line in (place / "metrics.jsonl").read_text("utf-8").splitlines()
        ]
        for place in (output, reference)
    ]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
