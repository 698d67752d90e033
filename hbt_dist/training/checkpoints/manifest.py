"""Record and verify the files of a checkpoint folder.

The manifest lists the size and SHA-256 of every file and ends with its own checksum. A file that it does not
list makes a checkpoint invalid, because DeepSpeed finds its files by pattern and unpickles them. Hidden files
are ignored: network file systems leave some, and no reader opens them.

Cost: reading every file once, about a second per GiB; ranks can share the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hbt_dist.common.files import flush_to_disk, sha256_of

MANIFEST = "manifest.json"
FORMAT = 1


def files_below(folder: Path) -> list[str]:
    """Return the relative names of all files that a manifest lists, in order."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith("."))
    return sorted({str(path.relative_to(folder)) for path in paths} - {MANIFEST})


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Flush files to disk and return their entries for the manifest: name -> bytes, sha256."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name, flush=True)}
        for name in names
    }


def write_manifest(folder: Path, facts: dict[str, Any], entries: dict[str, Any]) -> None:
    """Write the manifest of a folder and flush it, with the names in all folders.

    Args:
        folder: of the checkpoint.
        facts: plain data to record next to the files.
        entries: what `hash_files` returned for all files.
    """
    manifest = {"format": FORMAT, **facts, "files": dict(sorted(entries.items()))}
    (folder / MANIFEST).write_text(_encode(manifest), "utf-8")
    flush_to_disk(folder / MANIFEST)
    for changed in {path.parent for path in folder.rglob("*")}:
        flush_to_disk(changed)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint folder.

    Raises:
        FileNotFoundError: the folder has no manifest.
        ValueError, AttributeError: a byte has changed since it was written.
    """
    data = (folder / MANIFEST).read_bytes()
    manifest = {key: value for key, value in json.loads(data).items() if key != "sha256"}
    if _encode(manifest).encode() != data:
        raise ValueError("checksum")
    return manifest


def verify(
    folder: Path, step: int | None = None, *, share: tuple[int, int] = (0, 1)
) -> tuple[str | None, dict[str, Any]]:
    """Check a checkpoint folder against its manifest.

    Args:
        folder: of the checkpoint.
        step: that the manifest must record, if known.
        share: (rank, world size); a rank hashes its share of the files.

    Returns:
        the problem (None if the share is complete), and the manifest.
    """
    try:
        manifest = read_manifest(folder)
        unlisted = sorted({*files_below(folder)} - {*manifest["files"]})
    except FileNotFoundError:
        return "it has no manifest", {}
    except (OSError, ValueError, AttributeError):
        return "its manifest is damaged", {}
    problem: str | None
    if manifest["format"] != FORMAT:
        problem = f"its format is {manifest['format']}, this version reads {FORMAT}"
    elif step is not None and manifest["step"] != step:
        problem = f"its manifest is of step {manifest['step']}"
    elif unlisted:
        problem = f"it holds {unlisted[0]}, which its manifest does not list"
    else:
        rank, world_size = share
        names = sorted(manifest["files"])[rank::world_size]
        problems = (_damage(folder / name, name, manifest["files"][name]) for name in names)
        problem = next(filter(None, problems), None)
    return problem, manifest


def _damage(path: Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {entry['bytes']}"
        return None if sha256_of(path) == entry["sha256"] else f"{name} does not match its checksum"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _encode(manifest: dict[str, Any]) -> str:
    """Return JSON that ends with the checksum of the rest; equal manifests have equal bytes."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"
