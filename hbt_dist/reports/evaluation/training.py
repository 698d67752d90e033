"""Read what a training did from the files of its run folder: mixture, data, start model, losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hbt_dist.batching.settings import BatchSettings, MixtureEntry
from hbt_dist.common.console import counted, duration
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import read_json_lines
from hbt_dist.data.language_facts import describe
from hbt_dist.pages.document import Document
from hbt_dist.pages.figures import BLUE, ORANGE, SERIES, png, single_axes

_KINDS = {"crosslingual": "cross-lingual", "mixed_monolingual": "mixed monolingual", "any_pair": "any-pair"}
_COLOURS = {"crosslingual": BLUE, "monolingual": ORANGE}
_SHARES = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters"}


@dataclass(frozen=True)
class TrainingStory:
    """A training in words and figures.

    Attributes:
        run: plain content of run.yaml.
        rows: lines of metrics.jsonl, one per step.
        log: lines of log.txt.
    """

    run: dict[str, Any]
    rows: list[dict[str, Any]]
    log: list[str]

    @classmethod
    def of(cls, folder: Path) -> TrainingStory | None:
        """Read a run.

        Args:
            folder: of the run, or of the evaluation of its trained model below ``evaluation/``.

        Returns:
            None if the folder has no training, or is the evaluation of a start model.

        Raises:
            UserError: a file of the run cannot be read.
        """
        root = folder.absolute()
        if root.parent.parent.name == "evaluation":
            if root.parent.name == "start":
                return None
            root = root.parent.parent.parent
        files = root / "run.yaml", root / "metrics.jsonl"
        if not all(file.is_file() for file in files):
            return None
        rows = read_json_lines(files[1])
        log = root / "log.txt"
        lines = log.read_text("utf-8").splitlines() if log.is_file() else []
        try:
            run = yaml.safe_load(files[0].read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(str(files[0]), first_line(error), "repair or remove the file") from error
        return cls(run, rows, lines) if rows else None

    @property
    def steps(self) -> int:
        """Number of recorded steps."""
        return int(self.rows[-1]["step"])

    @property
    def sentence(self) -> str:
        """The training in a few words: ``350 steps with half of the batches cross-lingual``."""
        return f"{counted(self.steps, 'step')} with {self._mixture(brief=True)}"

    def facts(self) -> dict[str, str]:
        """Return steps, mixture, batch size, data, start model and learning rate in words."""
        settings = self.run["batches"], self.run["model"], self.run["training"], self.run["optimizer"]
        batches, model, training, optimizer = settings
        planned = int(training["steps"])
        seconds = sum(float(row.get("seconds", 0.0)) for row in self.rows)
        rows, sources = batches["global_batch_size"], self.run["data"]["sources"]
        logged = {line.partition(": ")[0]: line.partition(": ")[2] for line in self.log}
        epochs = list(dict.fromkeys(line for line in self.log if " epochs" in line))
        facts = {
            "steps": f"{self.steps:,}"
            + (f" of {planned:,}" if planned != self.steps else "")
            + (f", in {duration(seconds)}" if seconds else ""),
            "batches": self._mixture(brief=False),
            "batch size": f"{rows:,} questions, each with its answer; answers to the others are wrong ones",
            "data": _named(logged.get("corpus", "")) or ", ".join(source["name"] for source in sources),
            "passes over the data": "; ".join(epochs),
            "start model": model["name_or_path"] or "random weights",
            "model": logged.get("model", "").partition("; global batch")[0],
            "highest learning rate": f"{optimizer['learning_rate']:g}",
            "hard negatives": str(batches.get("hard_negatives", {}).get("count", 0)) + " per question",
        }
        return {name: text for name, text in facts.items() if text}

    def _entries(self) -> list[MixtureEntry]:
        settings = self.run["batches"]
        return BatchSettings.model_validate(
            {"global_batch_size": 1} | {key: settings.get(key) for key in ("alpha", "mixture")}
        ).entries()

    def _mixture(self, *, brief: bool) -> str:
        """Return the mixture in words; `brief` gives the share of cross-lingual batches alone."""
        entries = self._entries()
        weights = np.array([entry.weight_at(np.arange(self.steps)) for entry in entries])
        shares = weights / weights.sum(axis=0)
        whole = "the rows of a batch" if self.run["batches"].get("mixing") == "shares" else "the batches"
        kinds: dict[str, tuple[float, float]] = {}
        for entry, share in zip(entries, shares, strict=True):
            first, last = kinds.get(entry.kind, (0.0, 0.0))
            kinds[entry.kind] = first + float(share[0]), last + float(share[-1])
        kinds = {kind: ends for kind, ends in kinds.items() if max(ends) > 0}
        if len(kinds) == 1:
            return f"{_kind(next(iter(kinds)))} batches only"
        if brief and set(kinds) == {"monolingual", "crosslingual"}:
            return f"{_share(*kinds['crosslingual'])} of {whole} cross-lingual"
        parts = [f"{_share(*ends)} {_kind(kind)}" for kind, ends in kinds.items()]
        listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
        if self.run["batches"].get("mixing") == "shares":
            return f"{listed} rows in every batch"
        return f"{listed} batches"

    def loss_picture(self) -> bytes:
        """Draw the loss of every step, a curve for each kind of batch; return a PNG."""
        figure, axes = single_axes(6.0, 3.0)
        colours = iter(colour for colour in SERIES if colour not in _COLOURS.values())
        for kind, (steps, losses) in self._losses().items():
            colour = _COLOURS.get(kind) or next(colours, "#000000")
            axes.plot(steps, losses, ".", color=colour, markersize=2.5, alpha=0.3)
            axes.plot(steps, _smooth(losses), color=colour, linewidth=1.8, label=f"{_kind(kind)} batches")
        axes.set_xlabel("step", fontsize=8.5)
        axes.set_ylabel("loss", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False)
        return png(figure)

    def loss_finding(self) -> str:
        """Return the loss of each kind over the first and the last tenth of its steps in words."""
        parts = []
        for kind, (_, losses) in self._losses().items():
            tenth = max(1, len(losses) // 10)
            ends = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
            parts.append(f"{_kind(kind)} batches from {ends[0]:.3f} to {ends[1]:.3f}")
        return f"loss of {', of '.join(parts)}"

    def _losses(self) -> dict[str, tuple[list[int], list[float]]]:
        """Return steps and losses by kind, cross-lingual first; batches of several kinds are one kind."""
        losses_of: dict[str, tuple[list[int], list[float]]] = {}
        for row in sorted(self.rows, key=lambda row: str(row.get("kind")) != "crosslingual"):
            steps, losses = losses_of.setdefault(str(row.get("kind", "all")), ([], []))
            steps.append(int(row["step"]))
            losses.append(float(row["loss"]))
        return losses_of


def add_training(document: Document, story: TrainingStory) -> None:
    """Add a section: the training in words and its loss."""
    document.heading("The training")
    with document.columns():
        document.facts(story.facts())
        document.figure(
            "figures/loss.png",
            story.loss_picture(),
            "Loss of every step (dots) and its running median (line), by kind of batch. It is low when each "
            "question scores highest with its answer; kinds of batches differ in difficulty.",
            f"Curve of the {story.loss_finding()}",
        )


def _named(corpus: str) -> str:
    """Replace the codes that end a line on the corpus by names of languages."""
    head, _, codes = corpus.rstrip(")").rpartition("(")
    return f"{head}({', '.join(describe(code).name for code in codes.split())})" if head else corpus


def _kind(kind: str) -> str:
    return _KINDS.get(kind, kind.rpartition(":")[2].replace("_", " "))


def _share(first: float, last: float) -> str:
    words = [_share_in_words(share) for share in (first, last)]
    return words[0] if words[0] == words[1] else f"from {words[0]} to {words[1]}"


def _share_in_words(share: float) -> str:
    close = [words for value, words in _SHARES.items() if abs(value - share) < 0.002]
    return close[0] if close else f"{100 * share:.0f} %"


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the running median over a twentieth of the values."""
    half = max(1, len(values) // 40)
    return [float(np.median(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]
