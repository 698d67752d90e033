"""A folder arrives on the hub byte for byte, and what the hub refuses is refused before the export."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hbt_dist.common.errors import UserError
from hbt_dist.models.publishing import prepare_repository, push_folder
from tests.helpers.command_line import call_main
from tests.helpers.fake_hub import TOKEN, FakeHub, serve_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on this machine, which the client takes for the real one."""
    with serve_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def model_folder(folder: Path, weights: str) -> dict[str, bytes]:
    contents = {
        "README.md": b"---\nlanguage: [en]\n---\n# model\n",
        "config.json": b'{"a": 1}\n',
        weights: bytes(range(256)) * 700,
        "1_Pooling/config.json": b"{}",
        "2_Dense/model.safetensors": b"\x00\xff" * 99,
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("revision", [None, "v1"])
@pytest.mark.parametrize("weights", ["model.safetensors", "adapter_model.safetensors"])
def test_files_arrive_byte_for_byte(weights: str, revision: str | None, hub: FakeHub, tmp_path: Path) -> None:
    contents = model_folder(tmp_path / "model", weights)
    prepare_repository("my-lab/retriever", private=True, revision=revision)
    address = push_folder(tmp_path / "model", "my-lab/retriever", revision=revision, message="step 6")
    assert address == f"{hub.address}/my-lab/retriever/commit/{'1' * 40}"
    assert hub.files["my-lab/retriever", revision or "main"] == contents
    assert hub.private == {"my-lab/retriever": True}
    prepare_repository("my-lab/retriever", revision=revision)  # a second push
    push_folder(tmp_path / "model", "my-lab/retriever", revision=revision, message="again")


def refusal(name: str = "me/model", **options: Any) -> UserError:
    with pytest.raises(UserError) as refused:
        prepare_repository(name, **options)
    return refused.value


def test_without_a_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refusal().problem == "the hub does not accept the token"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    error = refusal()
    assert error.problem == "there is no token of the hub"
    assert error.remedy == "run `hf auth login`, or set HF_TOKEN"


def test_without_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert refusal().problem.startswith(f"the hub ({address}) does not answer: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal().problem == "the hub cannot be reached: HF_HUB_OFFLINE is set"


def test_names_that_belong_to_other_people(hub: FakeHub) -> None:
    assert refusal("stranger/model").problem == "the token has no right to write to stranger/model"
    hub.create("stranger/model")
    error = refusal("stranger/model")
    assert error.problem == "the token has no right to write to stranger/model"
    assert error.remedy == "take a token with write access to stranger, or a name of yours"
    assert hub.files == {("stranger/model", "main"): {}}
    for name in ("model", "a/b/c", "/model"):
        assert refusal(name).problem == f"expected ORGANISATION/NAME, got {name!r}"
    assert "--push me/a model!" in str(refusal("me/a model!"))


def test_private_files_do_not_go_to_a_public_repository(hub: FakeHub) -> None:
    hub.create("me/model")
    assert refusal(private=True).problem == "expected a private repository, got an existing public one"
    prepare_repository("me/model")


def test_the_command_asks_the_hub_before_the_export(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    export = ("export", tmp_path / "absent", "--to", tmp_path / "model")
    code, _, err = call_main(monkeypatch, capsys, *export, "--push", "stranger/model")
    assert (code, err.splitlines()[0]) == (
        2,
        "error: --push stranger/model: the token has no right to write to stranger/model",
    )
    code, _, err = call_main(monkeypatch, capsys, *export, "--private")
    assert (code, err.splitlines()[0]) == (2, "error: --private: expected --push ORGANISATION/NAME with it")
    code, _, err = call_main(monkeypatch, capsys, *export, "--push", "me/model")
    assert code == 2
    assert "absent: no such folder" in err
