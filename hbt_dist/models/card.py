"""Parts of a model card: the metadata header that the model hub reads, and how to use the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TAGS = ("sentence-transformers", "dense-retrieval", "multilingual")
USAGE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
questions = model.encode_query(["..."])
passages = model.encode_document(["..."])
scores = model.similarity(questions, passages)
```"""


def header(languages: list[str], base: dict[str, Any], **facts: Any) -> str:
    """Return the metadata header of a card.

    Args:
        languages: codes of the training languages.
        base: metadata of the start model: its license holds for the trained model, too.
        facts: further metadata; empty values are left out.
    """
    data = {
        "language": languages,
        "license": base.get("license"),
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        **{key: base.get(key) for key in ("license_name", "license_link", "base_model")},
        **facts,
    }
    known = {key: value for key, value in data.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True).strip()}\n---"


def base_metadata(name_or_path: str) -> dict[str, Any]:
    """Return what the card of a start model says of license and base model, without asking the hub.

    Args:
        name_or_path: of the start model; a name on the hub is the base model, and its card is read if the
            hub's cache has it. A folder passes on the base model of its card.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(name_or_path)
    if folder.is_dir():
        return _metadata(folder / "README.md")
    cached = try_to_load_from_cache(name_or_path, "README.md")
    known = _metadata(Path(cached)) if isinstance(cached, str) else {}
    return {**known, "base_model": name_or_path}


def _metadata(file: Path) -> dict[str, Any]:
    """Return the license and the base model that the header of a card names; empty if it has none."""
    try:
        parts = file.read_text("utf-8").split("---\n", 2)
        data = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    keys = ("license", "license_name", "license_link", "base_model")
    return {key: data[key] for key in keys if key in data} if isinstance(data, dict) else {}
