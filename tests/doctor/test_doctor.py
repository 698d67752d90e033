"""The doctor: right verdicts, right exit code, and a problem verdicts wherever there is one."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from hbt_dist.doctor import machine as doctor
from hbt_dist.doctor import report as doctor_report
from hbt_dist.doctor.cluster import check_cluster
from hbt_dist.doctor.report import report
from hbt_dist.doctor.verdict import Verdict
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.deepspeed.setup import emulated_bf16
from tests.helpers.runs import hbt_dist, tiny_run, write_run


def verdicts_of(check: Any, run: RunFile | None = None) -> list[Verdict]:
    return list(check(run))


def levels(verdicts: list[Verdict]) -> set[str]:
    return {verdict.level for verdict in verdicts}


@pytest.mark.slow
def test_the_command_on_this_machine(tmp_path: Path) -> None:
    file = write_run(tmp_path / "run.yaml", tiny_run(tmp_path / "out", tmp_path / "cache"))
    code, out, err = hbt_dist("doctor", "--run", file, "--json", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert code == 0, out + err
    answer = json.loads(out)
    assert answer["problem"] == 0
    verdicts = {verdict["check"]: verdict for verdict in answer["verdicts"]}
    assert {"python", "packages", "deepspeed", "disk", "hub", "ray", "all-reduce", "gradient"} <= set(
        verdicts
    )
    assert "ZeRO stage" in verdicts["gradient"]["found"]
    assert not (tmp_path / "out").exists()


def test_one_line_per_verdict_and_the_number_of_problems() -> None:
    said: list[str] = []
    verdicts = iter([Verdict("ok", "fine", check="a"), Verdict("problem", "broken", "repair it", "b")])
    assert report(verdicts, as_json=False, say=said.append) == 1
    assert said == [
        "ok       a: fine",
        "problem  b: broken\n         -> repair it",
        "1 problems, 0 warnings, 1 ok",
    ]


def test_the_json_report_keeps_its_keys() -> None:
    said: list[str] = []
    assert report([Verdict("problem", "broken", "repair it", "b")], as_json=True, say=said.append) == 1
    assert json.loads(said[0]) == {
        "verdicts": [{"check": "b", "level": "problem", "found": "broken", "remedy": "repair it"}],
        "ok": 0,
        "warning": 0,
        "problem": 1,
    }


def test_the_tested_versions_are_those_of_the_constraints_file() -> None:
    assert doctor.tested_versions()["ray"].count(".") == 2
    root = Path(doctor.__file__).resolve().parents[2] / "constraints.txt"
    assert doctor.CONSTRAINTS.resolve() == root, "one copy only"


@pytest.mark.parametrize(
    ("have", "level"), [("5.23.0", "ok"), ("5.23.0+local", "ok"), ("5.9.1", "warning"), ("4.57.0", "problem")]
)
def test_versions(monkeypatch: pytest.MonkeyPatch, have: str, level: str) -> None:
    tested = doctor.tested_versions()
    installed = {**tested, "transformers": have}
    monkeypatch.setattr(metadata, "version", lambda name: installed.get(name, metadata_version(name)))
    monkeypatch.setattr(doctor, "tested_versions", lambda: {**tested, "transformers": "5.23.0"})
    verdicts = [
        v for v in verdicts_of(doctor.check_packages) if "transformers" in v.finding or v.level == "ok"
    ]
    assert levels(verdicts) == {level}


metadata_version = metadata.version


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "deepspeed":
            raise metadata.PackageNotFoundError(name)
        return metadata_version(name)

    monkeypatch.setattr(metadata, "version", version)
    assert "deepspeed is not installed" in [v.finding for v in verdicts_of(doctor.check_packages)]


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ("zero1", "zero1_fp16"),
        ("zero2_bf16", "zero1_fp16"),
        (2, "zero1_fp16"),
        ("zero1_fp16", None),
        ("cpu", None),
    ],
)
def test_a_gpu_that_emulates_bf16_is_told(
    config: Any, remedy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4: torch's own question counts the emulation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    run = RunFile.model_validate(tiny_run(tmp_path / "out", tmp_path / "cache", deepspeed__config=config))
    verdicts = verdicts_of(doctor.check_precision, run)
    assert levels(verdicts) == ({"warning"} if remedy else set())
    assert all("Tesla T4 has no bf16" in v.finding and f"config: {remedy}" in v.remedy for v in verdicts)
    assert emulated_bf16(resolve_deepspeed(run.deepspeed, gradient_clipping=1.0), torch.device("cpu")) is None
    plain = resolve_deepspeed(DeepSpeedSettings(config=None, precision="bf16_autocast"))
    assert "precision: fp32" in (emulated_bf16(plain, torch.device("cuda")) or ("", ""))[1]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert verdicts_of(doctor.check_precision, run) == []


@pytest.mark.parametrize(
    ("cuda", "driver", "finding", "remedy"),
    [
        (
            "13.0",
            "550.90.07",
            "CUDA 13.0, which needs an NVIDIA driver of 580.65.06 or newer; .* 550.90",
            "CUDA 12",
        ),
        ("12.8", "470.57.02", "needs an NVIDIA driver of 525.60.13 or newer", "CUDA 11"),
        ("12.8", "440.10", "needs an NVIDIA driver of 525.60.13", "install a newer driver$"),
        (None, "580.95.05", "torch is built without CUDA", "CUDA build"),
        ("13.0", "580.95.05", "sees no GPU, but there is an NVIDIA driver", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_driver_too_old_for_torch_is_named(
    cuda: str | None, driver: str, finding: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor, "_nvidia_driver", lambda: driver)
    (verdict,) = verdicts_of(doctor.check_accelerator)
    assert verdict.level == "problem"
    assert re.search(finding, verdict.finding)
    assert re.search(remedy, verdict.remedy)
    assert "\n" not in verdict.finding


def test_two_flavours_of_faiss_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata, "version", lambda name: "1.15.1" if name.startswith("faiss") else metadata_version(name)
    )
    verdicts = verdicts_of(doctor.check_faiss)
    assert levels(verdicts) == {"problem"}
    assert "pip uninstall faiss-cpu faiss-gpu" in verdicts[0].remedy


def test_a_full_disk_and_a_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFile.model_validate(tiny_run(tmp_path / "out", tmp_path / "cache"))
    monkeypatch.setattr(doctor, "NO_DISK_GIB", 1e9)
    assert "problem" in levels(verdicts_of(doctor.check_disk, run))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "cannot be written" in verdicts_of(doctor.check_disk, run)[1].finding


def test_the_hub_offline_and_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert levels(verdicts_of(doctor.check_hub)) == {"ok"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert levels(verdicts_of(doctor.check_hub)) == {"warning"}


def test_a_run_that_does_not_fit_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hbt_dist.orchestration import cluster

    monkeypatch.setattr(cluster, "_runs_on_this_machine", lambda: False)
    plain = tiny_run(tmp_path / "out", tmp_path / "cache", workers__use_gpu=True)
    verdicts = verdicts_of(check_cluster, RunFile.model_validate(plain))
    assert [v.level for v in verdicts] == ["ok", "problem"]
    assert "2 workers x (1 CPU + 1 GPU) are requested" in verdicts[1].finding


def test_a_cluster_that_does_not_answer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_run(tmp_path / "out", tmp_path / "cache", workers__address="127.0.0.1:9")
    monkeypatch.setattr(doctor_report, "CHECKS", {"ray": check_cluster})
    verdicts = list(doctor_report.examine(RunFile.model_validate(plain)))
    assert [v.level for v in verdicts] == ["problem"]
    assert "Ray cluster '127.0.0.1:9': does not answer" in verdicts[0].finding


def test_processes_that_fail_are_quoted(tmp_path: Path) -> None:
    answer = doctor._run_ranks(2, tmp_path)
    assert isinstance(answer, str)
    assert "engine.json" in answer


def test_a_kernel_of_the_loss_that_cannot_be_used_here() -> None:
    run = tiny_run(Path("out"), Path("cache"))
    assert levels(verdicts_of(doctor.check_kernel, RunFile.model_validate(run))) == {"ok"}
    run["loss"] = {"kernel": "liger"}
    (verdict,) = verdicts_of(doctor.check_kernel, RunFile.model_validate(run))
    assert (verdict.level, verdict.finding) == (
        "problem",
        "liger needs a CUDA device, and this run is on cpu",
    )
    run["workers"]["use_gpu"] = True
    assert levels(verdicts_of(doctor.check_kernel, RunFile.model_validate(run))) == {"warning"}
