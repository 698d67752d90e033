"""Load the weights of a transformers model: all that its configuration expects, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.models.pooler import remove_pooler

_CHECK = "check the name, or the folder's files"


def load_weights(kind: Any, source: str, **options: Any) -> tuple[Any, list[str]]:
    """Load a model whose file holds every weight in the expected shape, without a pooler.

    Args:
        kind: a class of transformers with `from_pretrained`, such as AutoModel.
        source: folder or hub name.
        options: of `from_pretrained`.

    Returns:
        the model, and a line on weights of the file that it does not use, except those of a pooler.

    Raises:
        UserError: the model cannot be read, or weights are missing or of another shape.
    """
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with explained(source), quiet_transformers():
        model, report = kind.from_pretrained(source, **options)
    for name, stored, expected in sorted(report["mismatched_keys"])[:1]:
        raise UserError(
            source,
            f"{name} has shape {tuple(stored)} in the file, but config.json expects {tuple(expected)}",
            "weights and config.json must come from one model",
        )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(
            source,
            f"{len(missing)} weights that config.json expects are missing: {_some(missing)}",
            "use the whole model; transformers would draw the missing weights at random",
        )
    remove_pooler(model, is_trained=not report["missing_keys"])
    unused = sorted(key for key in report["unexpected_keys"] if "pooler" not in key)
    verb = "is" if len(unused) == 1 else "are"
    lines = [f"{source}: {counted(len(unused), 'weight')} of the file {verb} not used ({_some(unused)})"]
    return model, lines if unused else []


def _some(names: list[str]) -> str:
    return ", ".join([*names[:2], "..."] if len(names) > 2 else names)


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Raise a `UserError` for every error of transformers and tokenizers, which raise all kinds."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(source, f"cannot be loaded as a model: {first_line(error)}", _CHECK) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' report on loading and its progress bars inside the block."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
