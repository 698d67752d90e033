"""Log a training to TensorBoard, Weights & Biases or MLflow, as one run over all its starts.

A tracker gets a point every `training.log_every` steps: means over these steps, the loss also by kind of
batch. It also gets the validation figures of checkpoints, and evaluations with the matrix of language pairs
as a picture.

A server keeps what it has: `trackers.json` in the run's folder holds its run and the last step, and a start
after a kill fills in the steps that the killed process had not logged. Local files of a killed process can
lack anything: with TensorBoard and W&B offline, each start writes all figures again, under the same run.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from hbt_dist.common.console import note
from hbt_dist.common.errors import UserError, last_line
from hbt_dist.common.files import write_json
from hbt_dist.run_file import RunFile
from hbt_dist.training.follow import Listener, follow, succeeds
from hbt_dist.training.run_folder import RunFolder

_PROJECT = "hbt-dist"
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_LAST_VALUES = {"learning_rate"}  # of the other figures a point holds the mean
_LEFT_OUT = {"step", "languages", "seconds", "seconds_planning"}
_MOST_PARAMETERS = 100  # that MLflow takes at once
_LONGEST_PARAMETER = 500


def check_trackers(names: Collection[str], key: str = "training.trackers") -> None:
    """Refuse a tracker whose package is missing.

    Args:
        names: of the trackers.
        key: setting that names them.

    Raises:
        UserError: with the line to install the package.
    """
    for name in names:
        package = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            remedy = f"pip install {package}, or remove {name} from {key}"
            raise UserError(key, f"{name}: the package {package} is not installed", remedy)


def open_trackers(run: RunFile, folder: RunFolder) -> list[Listener]:
    """Open the trackers of a run, and continue their runs if the folder has begun.

    Raises:
        UserError: a package is missing, or a tracker's server cannot be used.
    """
    check_trackers(run.training.trackers)
    trackers: list[Listener] = []
    for name in run.training.trackers:
        try:
            trackers.append(_KINDS[name](run, folder))
        except Exception as error:
            for tracker in trackers:
                tracker.close()
            remedy = f"{_REMEDIES[name]}, or remove {name} from training.trackers"
            raise UserError("training.trackers", f"{name}: {last_line(error)}", remedy) from error
    return trackers


@contextmanager
def tracked(run: RunFile, folder: RunFolder) -> Iterator[None]:
    """Log the training of the block to the run's trackers.

    Raises:
        UserError: see `open_trackers`.
    """
    trackers = open_trackers(run, folder)
    try:
        with follow(folder, list(trackers)):
            yield
    finally:
        for tracker in trackers:
            succeeds(tracker, tracker.close)


class Tracker(Listener):
    """Turn steps into points, and remember in the run's folder what was logged.

    Derived classes open and close a tracker's run and log figures and pictures.
    """

    name: ClassVar[str]

    def __init__(self, run: RunFile, folder: RunFolder) -> None:
        self._run, self._file = run, folder.trackers
        before = _recorded(self._file).get(self.name, {})
        if before.get("offline"):
            before = {"id": before["id"]}
        self._facts: dict[str, Any] = {
            "id": uuid.uuid4().hex[:12],
            "step": 0,
            "validated": 0,
            "evaluated": [],
            **before,
        }
        self.reported, self.validated = self._facts["step"], self._facts["validated"]
        self._rows: list[dict[str, Any]] = []  # since the last point

    def step(self, step: int, figures: dict[str, Any]) -> None:
        """Log a point if one is due."""
        self._rows.append(figures)
        training = self._run.training
        if step % training.log_every == 0 or step == training.steps:
            point = point_of(self._rows, self._run.batches.global_batch_size)
            self._log(step, {f"train/{name}": value for name, value in point.items()})
            self._remember(step=step)
            self._rows = []

    def validation(self, line: dict[str, Any]) -> None:
        """Log the figures of a checkpoint."""
        if figures := _named(f"validation/{line['benchmark']}", line):
            self._log(line["step"], figures)
        self._remember(validated=self._facts["validated"] + 1)

    def evaluated(self, when: str, label: str, folder: Path, png: bytes) -> None:
        """Log the figures and the matrix of an evaluation, unless it was logged before."""
        from hbt_dist.evaluation.read_results import headline_figures, read_results

        step = 0 if when == "start" else self._run.training.steps
        key = f"{when}/{label}/{step}"  # a run with more steps ends again
        if key in self._facts["evaluated"]:
            return
        self._log(step, _named(f"evaluation/{label}", headline_figures(read_results(folder))))
        self._picture(f"pairs/{label}", step, png)
        self._remember(evaluated=[*self._facts["evaluated"], key])

    @property
    def _is_complete(self) -> bool:
        return bool(self._facts["step"] >= self._run.training.steps)

    def _remember(self, **facts: Any) -> None:
        self._facts |= facts
        write_json(self._file, {**_recorded(self._file), self.name: self._facts})

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        raise NotImplementedError

    def _picture(self, name: str, step: int, png: bytes) -> None:
        raise NotImplementedError


class _TensorBoard(Tracker):
    name = "tensorboard"

    def __init__(self, run: RunFile, folder: RunFolder) -> None:
        super().__init__(run, folder)
        self._folder = folder.tensorboard

    @cached_property
    def _writer(self) -> Any:
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=0)  # readers drop the files of earlier starts

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _picture(self, name: str, step: int, png: bytes) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(_image(png)), step, dataformats="HWC")

    def _remember(self, **facts: Any) -> None:
        self._facts |= facts

    def close(self) -> None:
        if "_writer" in vars(self):
            self._writer.close()


class _WandB(Tracker):
    name = "wandb"

    def __init__(self, run: RunFile, folder: RunFolder) -> None:
        import wandb

        super().__init__(run, folder)
        self._wandb = wandb
        folder.root.mkdir(parents=True, exist_ok=True)
        self._remote = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self._facts["id"],
            name=run.name,
            dir=os.environ.get("WANDB_DIR", str(folder.root)),
            config=run.plain(),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._remember(offline=self._remote.offline)
        # Validation figures arrive after later steps, which W&B's counter of steps does not allow.
        self._remote.define_metric("*", step_metric="step")
        folder_of_files = Path(self._remote.dir).parent
        offline = f"offline; upload the run with: wandb sync {folder_of_files}"
        note(f"wandb: {offline if self._remote.offline else self._remote.url}")

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self._remote.log({"step": step, **figures})

    def _picture(self, name: str, step: int, png: bytes) -> None:
        self._remote.log({"step": step, name: self._wandb.Image(_image(png))})

    def close(self) -> None:
        self._remote.finish()


class _MLflow(Tracker):
    name = "mlflow"

    def __init__(self, run: RunFile, folder: RunFolder) -> None:
        import mlflow
        from mlflow.entities import Metric, Param

        super().__init__(run, folder)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        self._client, self._metric = mlflow.MlflowClient(), Metric
        if self._facts.get("begun"):
            self._client.update_run(self._facts["id"], status="RUNNING")
        else:
            folder.root.mkdir(parents=True, exist_ok=True)
            created = self._client.create_run(self._experiment(), run_name=run.name)
            self._remember(id=created.info.run_id, begun=True)
            settings = [Param(key, value) for key, value in _leaves(run.plain())]
            for first in range(0, len(settings), _MOST_PARAMETERS):
                self._client.log_batch(self._facts["id"], params=settings[first : first + _MOST_PARAMETERS])
        note(f"mlflow: run {self._facts['id']} in {mlflow.get_tracking_uri()}")

    def _experiment(self) -> str:
        """Return the number of the experiment, made if it is new."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if known is None else known.experiment_id)

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [self._metric(_allowed(name), value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._facts["id"], metrics=metrics)

    def _picture(self, name: str, step: int, png: bytes) -> None:
        self._client.log_image(self._facts["id"], _image(png), key=_allowed(name), step=step)

    def close(self) -> None:
        status = "FINISHED" if self._is_complete else "KILLED"
        self._client.set_terminated(self._facts["id"], status)


_KINDS: dict[str, type[Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
_REMEDIES = {
    "tensorboard": "check the folder tensorboard of the run",
    "wandb": "run wandb login, or export WANDB_MODE=offline",
    "mlflow": "check MLFLOW_TRACKING_URI; a run that the server lost: remove trackers.json of the run",
}


def point_of(rows: Sequence[Mapping[str, Any]], rows_per_step: int) -> dict[str, float]:
    """Return the figures of consecutive steps as a point: means, loss by kind of batch, throughput.

    Args:
        rows: figures of the steps.
        rows_per_step: size of the global batch.
    """
    numbers = [{name: value for name, value in row.items() if _is_number(value)} for row in rows]
    names = dict.fromkeys(name for row in numbers for name in row if name not in _LEFT_OUT)
    point = {name: _mean([row[name] for row in numbers if name in row]) for name in names}
    point |= {name: numbers[-1][name] for name in _LAST_VALUES & numbers[-1].keys()}
    kinds = dict.fromkeys(row["kind"] for row in rows if "kind" in row)
    for kind in kinds:
        point[f"loss/{kind}"] = _mean([row["loss"] for row in rows if row.get("kind") == kind])
    if seconds := sum(row.get("seconds", 0.0) for row in numbers):
        point["seconds_per_step"] = seconds / len(rows)
        point["rows_per_second"] = rows_per_step * len(rows) / seconds
    return point


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(prefix: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among figures under a prefix."""
    return {
        f"{prefix}/{name}": value
        for name, value in figures.items()
        if _is_number(value) and name not in _LEFT_OUT
    }


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys and values of settings, as text that MLflow takes."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield _allowed(key), json.dumps(value, ensure_ascii=False)[:_LONGEST_PARAMETER]


def _allowed(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return re.sub(r"[^\w.\-/ ]", "_", name, flags=re.ASCII)


def _image(png: bytes) -> Any:
    from PIL import Image

    return Image.open(BytesIO(png)).convert("RGB")


def _recorded(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}
