"""`hbt-dist doctor`: is this machine, and the Ray cluster it belongs to, ready to train?

One verdict per line: ok, warning (works, but read it), problem (training would fail or go wrong), each with
what was found and what to do. Nothing is changed; files that are written to try a folder are removed. About
20 s on a laptop, most of it for two processes that train a tiny model and compare its gradient.

With a run file its own settings, folders and workers are looked at; without one, this machine in general.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import Version

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile

Level = Literal["ok", "warning", "problem"]
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
FLAVOURS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
LOW_DISK_GIB, NO_DISK_GIB = 10.0, 1.0
COLLECTIVE_SECONDS = 240.0


@dataclass(frozen=True)
class Verdict:
    """What one check found."""

    check: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.check}: {self.found}"
        return f"{line}\n{'':<9}-> {self.remedy}" if self.remedy else line


def examine(run: RunFile | None = None) -> Iterator[Verdict]:
    """All checks, one after the other, as their verdicts become known.

    Args:
        run: a run file whose workers, folders and engine settings are to be tried.
    """
    for check in _CHECKS:
        name = check.__name__.strip("_")
        try:
            yield from check(run)
        except UserError as error:
            yield Verdict(
                name, "problem", f"{error.location}: {error.problem}", error.remedy.replace("\n", " ")
            )
        except Exception as error:  # a doctor that dies of the disease is of no use
            yield Verdict(
                name, "problem", f"the check itself failed: {type(error).__name__}: {_first(str(error))}"
            )


def report(verdicts: Iterator[Verdict], *, as_json: bool, say: Callable[[str], None]) -> int:
    """Print verdicts as they come (or all as one JSON object); returns how many problems there are."""
    seen: list[Verdict] = []
    for verdict in verdicts:
        seen.append(verdict)
        if not as_json:
            say(str(verdict))
    count = {level: sum(v.level == level for v in seen) for level in ("ok", "warning", "problem")}
    if as_json:
        say(json.dumps({"verdicts": [asdict(v) for v in seen], **count}, indent=1))
    else:
        say(f"{count['problem']} problems, {count['warning']} warnings, {count['ok']} ok")
    return count["problem"]


def tested_versions() -> dict[str, str]:
    """The versions that are tested together, from the package's constraints file: name -> version."""
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text("utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def _python(_: RunFile | None) -> Iterator[Verdict]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.platform != "linux":
        yield Verdict("python", "warning", found, "only Linux is tested")
    else:
        yield Verdict("python", "ok", found)


def _packages(_: RunFile | None) -> Iterator[Verdict]:
    tested = tested_versions()
    required = [Requirement(text) for text in metadata.requires("hbt-dist") or []]
    num_equal, fine = 0, True
    for requirement in required:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        want = tested.get(name, "")
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            fine = False
            yield Verdict("packages", "problem", f"{name} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            fine = False
            remedy = f"pip install '{name}{f'=={want}' if want else requirement.specifier}'"
            yield Verdict("packages", "problem", f"{name} {have} is outside {requirement.specifier}", remedy)
        elif want and Version(have).public != want:
            fine = False
            yield Verdict(
                "packages",
                "warning",
                f"{name} {have}; tested with {want}",
                f"pip install '{name}=={want}' if something goes wrong",
            )
        else:
            num_equal += 1
    if fine:
        yield Verdict("packages", "ok", f"{num_equal} packages, in the versions that are tested together")


def _accelerator(run: RunFile | None) -> Iterator[Verdict]:
    import torch

    build = f"torch {torch.__version__}"
    wanted = run is not None and run.workers.use_gpu is True
    driver = _nvidia_driver()
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        found = f"{build}, {torch.cuda.device_count()} x {', '.join(sorted(names))}, driver {driver}"
        yield Verdict("accelerator", "ok", found)
    elif driver is not None:
        remedy = "install the CUDA build of torch for this driver, or mend CUDA_VISIBLE_DEVICES"
        found = f"there is an NVIDIA driver ({driver}), but {build} sees no GPU"
        yield Verdict("accelerator", "problem", found, remedy)
    elif wanted:
        remedy = "fine if this machine only drives a cluster with GPUs"
        yield Verdict("accelerator", "warning", f"{build}, no GPU here, but workers.use_gpu is true", remedy)
    else:
        yield Verdict("accelerator", "ok", f"{build}, no GPU: training runs on {os.cpu_count()} CPU cores")


def _precision(run: RunFile | None) -> Iterator[Verdict]:
    import torch

    from hbt_dist.training.deepspeed.precision import emulated_bf16
    from hbt_dist.training.deepspeed.settings import DeepSpeedSettings

    if torch.cuda.is_available():
        settings = DeepSpeedSettings() if run is None else run.deepspeed
        if (found := emulated_bf16(settings, torch.device("cuda"))) is not None:
            yield Verdict("precision", "warning", *found)


def _nvidia_driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else None


def _deepspeed(run: RunFile | None) -> Iterator[Verdict]:
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    began = time.monotonic()
    from deepspeed import DeepSpeedEngine

    seconds = time.monotonic() - began
    if not hasattr(DeepSpeedEngine, "coalesce_grad_reduction"):
        yield Verdict(
            "deepspeed",
            "problem",
            "has no coalesce_grad_reduction: several chunks per step would give wrong gradients",
            f"pip install deepspeed=={tested_versions()['deepspeed']}",
        )
        return
    if run is not None and run.deepspeed.config is not None:
        from hbt_dist.training.deepspeed.settings import load_deepspeed_config
        from hbt_dist.training.deepspeed.setup import check_with_deepspeed

        clipping = run.optimizer.gradient_clipping
        check_with_deepspeed(load_deepspeed_config(run.deepspeed.config, gradient_clipping=clipping))
    compiler = "no compiler is needed" if shutil.which("g++") is None else "nothing is compiled"
    yield Verdict(
        "deepspeed", "ok", f"{metadata.version('deepspeed')} imported in {seconds:.0f} s; {compiler}"
    )


def _kernel(run: RunFile | None) -> Iterator[Verdict]:
    """Whether the device here can use the run's `loss.kernel`."""
    if run is None:
        return
    import torch

    from hbt_dist.contrastive.row_losses import why_not

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = why_not(run.loss.kernel, device)
    if reason is None:
        yield Verdict("loss.kernel", "ok", f"{run.loss.kernel} on {device.type}")
    elif run.workers.use_gpu is True and device.type == "cpu":
        remedy = "fine if this machine only drives a cluster with GPUs"
        yield Verdict("loss.kernel", "warning", f"{run.loss.kernel} {reason}", remedy)
    else:
        remedy = "set loss.kernel to auto or rows"
        yield Verdict("loss.kernel", "problem", f"{run.loss.kernel} {reason}", remedy)


def _faiss(_: RunFile | None) -> Iterator[Verdict]:
    found = {}
    for name in FLAVOURS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        remedy = f"pip uninstall {' '.join(found)}, then install exactly one of hbt-dist[cpu], hbt-dist[gpu]"
        yield Verdict("faiss", "problem", f"{listed} overwrite each other", remedy)
    elif not found:
        remedy = "pip install 'hbt-dist[cpu]' (or [gpu]) for exported search indexes"
        yield Verdict("faiss", "warning", "not installed; training and evaluation do not need it", remedy)
    else:
        probe = subprocess.run(
            [sys.executable, "-c", "import faiss; print(faiss.__version__)"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if probe.returncode:
            problem = f"{listed} cannot be imported: {_first(probe.stderr.strip()[::-1])[::-1]}"
            yield Verdict(
                "faiss", "problem", problem, "install the libraries that it names, or hbt-dist[cpu]"
            )
        else:
            yield Verdict("faiss", "ok", listed)


def _disk(run: RunFile | None) -> Iterator[Verdict]:
    folders = {"temporary files": Path(tempfile.gettempdir())}
    if run is None:
        folders["this folder"] = Path.cwd()
    else:
        folders |= {"output_dir": Path(run.output_dir), "data.cache_dir": Path(run.data.cache_dir)}
    for what, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(there, os.W_OK):
            yield Verdict("disk", "problem", f"{what} {there} cannot be written", "choose another folder")
            continue
        free = shutil.disk_usage(there).free / 1024**3
        level: Level = "problem" if free < NO_DISK_GIB else "warning" if free < LOW_DISK_GIB else "ok"
        remedy = "" if level == "ok" else "make room: a checkpoint takes about 12 bytes per parameter"
        yield Verdict("disk", level, f"{what} {folder}: {free:,.1f} GiB free", remedy)
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total / 1024**3
        if size < 1:
            remedy = "start the container with --shm-size=8g or more (Kubernetes: a memory emptyDir)"
            yield Verdict("disk", "warning", f"/dev/shm has {size:.2f} GiB: Ray falls back to disk", remedy)


def _hub(_: RunFile | None) -> Iterator[Verdict]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Verdict("hub", "ok", "HF_HUB_OFFLINE is set: models and data must be local or in the cache")
        return
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=8):
            yield Verdict("hub", "ok", f"{constants.ENDPOINT} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = _first(str(getattr(error, "reason", error)))
        remedy = "name local folders as models and data, and export HF_HUB_OFFLINE=1 so that nothing waits"
        yield Verdict("hub", "warning", f"{constants.ENDPOINT} does not answer ({reason})", remedy)


def _ray(run: RunFile | None) -> Iterator[Verdict]:
    from hbt_dist.doctor.cluster import examine_cluster

    for level, found, remedy in examine_cluster(run):
        yield Verdict("ray", level, found, remedy)


def _collectives(run: RunFile | None) -> Iterator[Verdict]:
    """Two processes here: all-reduce, then the gradient self-check with the run's engine settings."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    num_processes = min(2, gpus) if gpus else 2
    backend = "NCCL" if gpus else "gloo"
    with tempfile.TemporaryDirectory(prefix="hbt-doctor-") as folder:
        engine = run.deepspeed.model_dump(mode="json") if run else {"config": 1}
        (Path(folder) / "engine.json").write_text(json.dumps(engine), "utf-8")
        answer = _run_ranks(num_processes, Path(folder))
    if isinstance(answer, str):
        remedy = f"{backend} between processes of one machine fails: look at the message, the firewall, and "
        remedy += "NCCL_DEBUG=INFO" if gpus else "GLOO_SOCKET_IFNAME (an interface that exists, such as lo)"
        yield Verdict("all-reduce", "problem", answer, remedy)
        return
    yield Verdict("all-reduce", "ok", f"{backend}, {num_processes} processes, {answer['seconds']:.1f} s")
    errors = f"{answer['engine']}: error {answer['gradient_error']:.1e} (at most {answer['tolerance']:.0e})"
    if answer["passed"]:
        yield Verdict("gradient", "ok", f"equal to that of one process; {errors}")
    else:
        remedy = "do not train here; install the tested versions (constraints.txt)"
        yield Verdict("gradient", "problem", f"differs from that of one process; {errors}", remedy)


def _run_ranks(num_processes: int, folder: Path) -> dict[str, Any] | str:
    """Start `hbt_dist.doctor.rank` several times: what rank 0 found, or why there is no answer."""
    from hbt_dist.orchestration.cluster import free_port

    processes = []
    shared = {
        **os.environ,
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    logs = [(folder / f"log-{rank}.txt").open("w+b") for rank in range(num_processes)]
    for rank in range(num_processes):
        command = [sys.executable, "-m", "hbt_dist.doctor.rank", str(folder)]
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(subprocess.Popen(command, env=env, stdout=logs[rank], stderr=subprocess.STDOUT))
    deadline = time.monotonic() + COLLECTIVE_SECONDS
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        late = [rank for rank, process in enumerate(processes) if process.poll() is None]
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        for process in processes:
            process.kill()
            process.wait()
    answer = folder / "answer.json"
    if answer.is_file() and not failed:
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        return found
    for rank in failed:
        logs[rank].seek(0)
        lines = logs[rank].read().decode(errors="replace").strip().splitlines()
        return f"rank {rank} failed: {lines[-1][:300] if lines else 'without a word'}"
    return f"ranks {late} gave no answer within {COLLECTIVE_SECONDS:.0f} s"


def _first(text: str) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[0][:300] if lines else ""


_CHECKS: tuple[Callable[[RunFile | None], Iterator[Verdict]], ...] = (
    _python,
    _packages,
    _accelerator,
    _precision,
    _deepspeed,
    _kernel,
    _faiss,
    _disk,
    _hub,
    _ray,
    _collectives,
)
