"""The loss' kernels give the same to rounding, and are refused where they cannot run or give something else.

Liger's runs on the CPU through Triton's interpreter, which must be asked for before Triton is imported: in
processes of their own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive import row_losses as kernels
from hbt_dist.contrastive.settings import Kernel
from hbt_dist.contrastive.world import World
from tests.contrastive.tiny import Case
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import hbt_dist, tiny_run, write_run
from tests.training.bodies import reference

INTERPRETED = {"TRITON_INTERPRET": "1"}
needs_liger = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel: pip install -e '.[fused]'"
)
# rows, columns, width, row_chunk. A block of Liger's kernel holds 32,768 columns.
SIZES = [
    (1, 1, 4, 1),
    (7, 300, 16, 3),
    (6, 50, 16, 100),
    (2, 32_768, 8, 1),
    (5, 32_769, 8, 2),
    (5, 70_001, 8, 2),
]


@pytest.mark.parametrize("kernel", [pytest.param("liger", marks=needs_liger)])
def test_a_kernel_is_as_near_to_float64_as_the_row_loop(kernel: Kernel) -> None:
    """Sums over 70,001 columns leave 2e-5 in float32, whoever adds them up."""
    (found,) = run_ranks(
        1, "tests.contrastive.bodies:kernel_errors", kernel=kernel, sizes=SIZES, env=INTERPRETED
    )
    for size, errors in zip(SIZES, found, strict=True):
        assert set(errors) == {"loss", "rows", "columns"}
        for name, (error, of_rows) in errors.items():
            assert error < max(1e-6, 4 * of_rows), f"{size}: {name}"
            assert of_rows < 3e-5, f"{size}: {name}"


@pytest.mark.slow
@needs_liger
def test_two_ranks_with_liger_have_the_gradient_of_one_process() -> None:
    """Masked columns, as in the third case, take the row loop."""
    case = Case(stage=2, num_negatives=1, loss={"kernel": "liger", "directions": "both"})
    cases = [case, case.but(stage=None, step={"mode": "direct"}), case.but(duplicates=True)]
    cases += [case.but(loss={**case.loss, "widths": [16, 5]})]
    found = run_ranks(
        2, "tests.training.bodies:run_with_kernel", cases=cases, kernel="liger", env=INTERPRETED
    )
    for check, _ in found:
        assert check.passed
        assert check.gradient_error < 1e-5
    for case, got in zip(cases, found[0][1], strict=True):
        want = reference(case.but(loss={**case.loss, "kernel": "rows"}), 2)
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)
        for what in ("gradients", "parameters"):
            for name, tensor in want[what].items():
                assert float((got[what][name] - tensor).norm() / tensor.norm()) < 1e-5, (case, name)


def test_what_cannot_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(kernel: Kernel) -> str:
        with pytest.raises(UserError) as refused:
            kernels.check_kernel(kernel, World.alone())
        assert refused.value.location == "loss.kernel"
        assert refused.value.remedy == "set loss.kernel to auto or rows"
        return refused.value.problem

    for kernel in ("auto", "rows"):
        kernels.check_kernel(kernel, World.alone())
    assert refusal("liger") == "liger needs a CUDA device, and this run is on cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel", None)
    assert "needs liger-kernel, which cannot be imported" in refusal("liger")
    assert "pip install 'hbt-dist[fused]'" in refusal("liger")


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1.001, "liger differs from rows in loss or gradients by 1.0e-03"), (float("nan"), "by nan")],
)
def test_a_kernel_that_is_not_equal_is_refused(
    monkeypatch: pytest.MonkeyPatch, factor: float, message: str
) -> None:
    def wrong(*arguments: Any, weight: float, **sizes: Any) -> Any:
        return kernels.infonce_rows(*arguments, weight=weight * factor, **sizes)

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(kernels.UNMASKED, "liger", wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        kernels.check_kernel("liger", World.alone())


def test_a_kernel_that_fails_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(kernels.UNMASKED, "liger", failing)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="liger fails here: RuntimeError: Failed to find C compiler"):
        kernels.check_kernel("liger", World.alone())


def test_where_one_rank_cannot_every_rank_refuses() -> None:
    first, second = run_ranks(2, "tests.contrastive.bodies:refused_on_the_last_rank")
    assert "liger cannot be used on another rank" in first
    assert "liger fails here" in second


def test_a_run_is_refused_before_it_has_written_anything(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache", loss__kernel="liger", workers__num_workers=1)
    file = write_run(tmp_path / "run.yaml", run)
    code, _, err = hbt_dist("train", file, "--launcher", "local", cwd=tmp_path)
    assert code == 2
    assert "loss.kernel: liger needs a CUDA device, and this run is on cpu" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
