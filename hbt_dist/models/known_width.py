"""Find the width of a model's embeddings without reading its weights."""

from __future__ import annotations

from pathlib import Path

from hbt_dist.models.files import read_json
from hbt_dist.models.folders import recorded_dense
from hbt_dist.models.settings import ModelSettings


def known_width(settings: ModelSettings) -> int | None:
    """Return the width of the whole embeddings of a start model, before any cut.

    Returns:
        None where small files of this machine do not answer: a hub name, an adapter, code of the model, a
        configuration that loading refuses with its reason.

    Raises:
        UserError: a file of the folder is damaged or names something that is not supported.
    """
    import transformers

    keys = dict(settings.scratch.architecture) if settings.scratch is not None else {}
    folder = Path(settings.name_or_path or "")
    if settings.scratch is None and (folder / "config.json").is_file():
        if dense := recorded_dense(folder)[0]:
            return dense[-1].linear.out_features
        keys = read_json(folder / "config.json")
    if "auto_map" in keys:
        return None
    try:
        width = transformers.AutoConfig.for_model(keys.pop("model_type", ""), **keys).hidden_size
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return int(width)
