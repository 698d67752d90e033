"""Recognise the column names of FlagEmbedding, Tevatron and sentence-transformers.

They count only where the run file names neither question nor passage, the columns of those names are
absent, and exactly one form fits. Pairs with a score or label are refused: some may be wrong pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.settings import ColumnSettings
from hbt_dist.data.corpus.tables.column_names import numbered_columns


@dataclass(frozen=True)
class UsualColumns:
    """The columns of a form; negatives and ids may be absent."""

    question: str
    passage: str
    negatives: tuple[str, ...] = ("negative", "negative_{number}")
    example_id: str | None = None

    def settings(self, given: ColumnSettings, names: Sequence[str]) -> ColumnSettings:
        """Return the run file's settings, filled from this form."""
        default = ColumnSettings()
        fitting = [name for name in self.negatives if numbered_columns(name, names)]
        changes = {"question": self.question, "passage": self.passage}
        if given.negatives == default.negatives and given.negatives not in names:
            changes["negatives"] = (fitting or self.negatives)[0]
        if given.example_id is None and self.example_id in names:
            changes["example_id"] = str(self.example_id)
        return given.model_copy(update=changes)


FORMS = (
    UsualColumns("query", "pos", ("neg",)),
    UsualColumns("query", "positive_passages", ("negative_passages",), "query_id"),
    UsualColumns("anchor", "positive"),
    UsualColumns("query", "positive"),
    UsualColumns("query", "answer"),
    UsualColumns("question", "answer"),
    UsualColumns("sentence1", "sentence2"),
)
#: Instructions before the question: FlagEmbedding's, and two names of other collections.
_PREFIXES = ("prompt", "instruction", "query_instruction")
_JUDGED = frozenset({"score", "scores", "label", "labels", "similarity", "relevance"})


def usual_prefix(given: ColumnSettings, names: Sequence[str]) -> str | None:
    """Return the column of the instructions among these columns, if there is one.

    A usual name counts where the run file names neither question, passage nor prefix.
    """
    default = ColumnSettings()
    if given.prefix is None or given.prefix in names:
        return given.prefix
    if (given.question, given.passage, given.prefix) != (default.question, default.passage, default.prefix):
        return None
    return next((name for name in _PREFIXES if name in names), None)


def usual_columns(given: ColumnSettings, names: Sequence[str], location: str) -> ColumnSettings:
    """Return the run file's settings, filled from the usual form of these columns if there is one.

    Args:
        names: the columns of the first row.

    Raises:
        UserError: several forms fit, or the pairs have a score or label.
    """
    default = ColumnSettings()
    if (given.question, given.passage) != (default.question, default.passage):
        return given
    if default.question in names and default.passage in names:
        return given
    fitting = [form for form in FORMS if form.question in names and form.passage in names]
    if not fitting:
        return given
    ways = [f"columns: {{question: {form.question}, passage: {form.passage}, ...}}" for form in fitting]
    judged = [name for name in names if name in _JUDGED]
    if judged:
        raise UserError(
            location,
            f"the pairs have a column {judged[0]!r}, and some may be wrong pairs",
            f"keep the right pairs, and write {ways[0]}",
        )
    if len(fitting) > 1:
        raise UserError(
            location, f"the columns {', '.join(names)} fit several forms", "\n".join(["write one of", *ways])
        )
    return fitting[0].settings(given, names)
