"""Sources on other storage: copied once per version, and the same data as local files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus

Build = Callable[..., Corpus]
EN = {"language": "en"}


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({"query": f"q{n}", "answer": f"a{n}"}).encode() + b"\n" for n in numbers)


def test_an_object_store_is_a_folder(
    s3: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-the-test")
    bucket = f"b{uuid.uuid4().hex}"
    options = f"?region=us-east-1&scheme=http&endpoint_override={s3}&allow_bucket_creation=true"
    store = fs.FileSystem.from_uri(f"s3://{bucket}{options}")[0]
    store.create_dir(bucket)

    def put(name: str, content: bytes) -> None:
        with store.open_output_stream(f"{bucket}/{name}") as stream:
            stream.write(content)

    put("d/a.jsonl", lines(0, 1))
    put("d/sub/b.jsonl", lines(2))
    address = f"s3://{bucket}/d{options}"
    corpus = build(address, columns=EN)  # type: ignore[arg-type]
    assert corpus.question_texts("en") == ["q0", "q1", "q2"]
    copies = {path: path.stat().st_ino for path in (tmp_path / "cache" / "sources").rglob("*.jsonl")}
    assert len(copies) == 2
    again = build(address, columns=EN)  # type: ignore[arg-type]
    assert again.fingerprint == corpus.fingerprint
    assert {path: path.stat().st_ino for path in copies} == copies, "fetched twice"
    local = tmp_path / "local.jsonl"
    local.write_bytes(lines(0, 1))
    one = build(f"s3://{bucket}/d/a.jsonl{options}", columns=EN)  # type: ignore[arg-type]
    assert one.fingerprint == build(local, columns=EN).fingerprint
    put("d/a.jsonl", lines(7))
    store.delete_file(f"{bucket}/d/sub/b.jsonl")
    assert build(address, columns=EN).question_texts("en") == ["q7"]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"source one, s3://{bucket}/absent: holds no file"):
        build(f"s3://{bucket}/absent{options}", columns=EN)  # type: ignore[arg-type]


def test_storage_that_cannot_be_read_is_named(build: Build) -> None:
    with pytest.raises(UserError, match="source one, nowhere://x/y: cannot be read"):
        build("nowhere://x/y", columns=EN)  # type: ignore[arg-type]
