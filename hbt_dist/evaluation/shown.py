"""Show an evaluation in notebooks: lines of text, a matrix in colours, a data frame of language pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.common.numbers import plain
from hbt_dist.data.language_facts import describe
from hbt_dist.pages.text_matrix import MOST_SHOWN, UNSEEN, extreme_lines, matrix_lines

if TYPE_CHECKING:
    import pandas as pd

#: Style of the matrices in a notebook, which has no style sheet of a page.
_STYLE = (
    "<style>.hbt-dist td,.hbt-dist th{text-align:center!important;padding:.3em .5em!important}"
    ".hbt-dist th[scope=row]{text-align:left!important}.hbt-dist .hollow{font-style:italic}"
    ".hbt-dist .scale span{display:inline-block;width:8em;height:.8em;margin:0 .5em}"
    ".hbt-dist p{max-width:26em;margin:.5em 0}"  # two matrices fit next to each other
    ".hbt-dist{display:flex;flex-wrap:wrap;gap:1.5em}</style>"
)


@dataclass(frozen=True)
class ShownEvaluation:
    """What people see of an evaluation.

    Args:
        title: of the benchmark.
        languages: L codes.
        metrics: metric -> (L, L), rows question languages, columns candidate languages; NaN or None without
            a value.
        means: setting -> mean mAP; None or NaN without a value.
        hollow: (L) languages that training did not see.
        chance: setting -> mean mAP of a random order; None or NaN without a value.
    """

    title: str
    languages: Sequence[str]
    metrics: Mapping[str, Any]
    means: Mapping[str, float | None]
    hollow: Sequence[bool]
    chance: Mapping[str, float | None]

    def text(self) -> str:
        """Return mean mAP and matrix; of many languages, the best and worst pairs."""
        show = matrix_lines if len(self.languages) <= MOST_SHOWN else extreme_lines
        lines = [self._head, *show(self.languages, self.cells("map"), hollow=self.hollow)]
        return "\n".join([*lines, f"{UNSEEN} not in the training data"] if any(self.hollow) else lines)

    def frame(self, metric: str) -> pd.DataFrame:
        """Return the values of the language pairs: rows question languages, columns candidate languages."""
        import pandas as pd

        if metric not in self.metrics:
            raise UserError(
                f"metric {metric!r}", "was not measured", f"choose from {', '.join(sorted(self.metrics))}"
            )
        return pd.DataFrame(
            self.cells(metric),
            pd.Index(self.languages, name="question_language"),
            pd.Index(self.languages, name="candidate_language"),
        )

    def cells(self, metric: str) -> NDArray[np.float64]:
        """(L, L) values of the language pairs, NaN without a value."""
        return np.array(self.metrics[metric], np.float64)

    @property
    def low(self) -> float:
        """The mAP of a random order, where colours begin; that of cross-lingual pairs if there are any."""
        known = [self.chance[setting] for setting in ("crosslingual", "monolingual")]
        return next((value for value in known if value is not None and not np.isnan(value)), 0.0)

    @property
    def _head(self) -> str:
        means = (
            f"{setting.replace('crosslingual', 'cross-lingual')} {plain(value)}"
            for setting, value in self.means.items()
            if value is not None and not np.isnan(value)
        )
        return f"{self.title}: mAP {', '.join(means)}"


def evaluations_html(evaluations: Mapping[str, ShownEvaluation]) -> str:
    """Return the matrices of evaluations next to each other, in the same colours.

    Args:
        evaluations: title of each -> the evaluation; an empty title for one alone.
    """
    from hbt_dist.pages.matrix import Matrix

    cells = [evaluation.cells("map") for evaluation in evaluations.values()]
    known = np.concatenate([values[~np.isnan(values)] for values in cells])
    low = min(evaluation.low for evaluation in evaluations.values())
    parts = []
    for (title, shown), values in zip(evaluations.items(), cells, strict=True):
        matrix = Matrix(
            ": ".join(filter(None, (title, "mAP of each language pair"))),
            tuple(shown.languages),
            values,
            names=tuple(describe(code).name for code in shown.languages),
            low=low,
            low_name="random order" if low else "",
            high=float(known.max()) if len(known) else 1.0,
            hollow=tuple(map(bool, shown.hollow)),
        )
        head = ": ".join(filter(None, (title, shown._head)))
        parts.append(f"<div><p>{escape(head)}</p>{matrix.html()}</div>")
    return f'{_STYLE}<div class="hbt-dist">{"".join(parts)}</div>'
