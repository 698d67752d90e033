"""A copy of a run on other storage: checkpoints as they come, the model at the end, and back again.

    STORAGE/RUN_NAME/
      run.yaml, metrics.jsonl, log.txt, ...   as in the run's folder
      start/, model/, evaluation/             the same
      checkpoints/step-N/                     the manifest is written last: without it a copy does not count
      owner.json                              which folder writes here, and when it last said so

Goes through pyarrow's file systems, as Ray's storage does: a folder, s3://, gs://, hdfs://, file://. Object
stores know no locks, so the owner is a word that is renewed: who finds another's word waits until it changes
(then two runs want the same place, and the second is refused) or has been silent for a minute.

Cost: each checkpoint is read once and sent; nothing waits for it but the end of the run.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pyarrow import fs

from hbt_dist.common.errors import UserError
from hbt_dist.training.checkpoints.store import MANIFEST, verify
from hbt_dist.training.run_folder import RunFolder

_BLOCK = 8 * 1024**2  # bytes sent at a time
_RENEW, _DEAD = 20.0, 60.0  # seconds between two words of an owner; of silence after which it counts as dead
_FILES = ("run.yaml", "provenance.json", "metrics.jsonl", "validation.jsonl", "log.txt")
_OWNER = "owner.json"
_MANIFEST_PATH = re.compile(rf"/step-(\d{{10}})/{re.escape(MANIFEST)}$")

Removable = Callable[[list[int]], set[int]]


class RunStorage:
    """The place of one run on other storage.

    Args:
        where: folder or URI, without credentials.
        name: of the run; its folder there.
        renew, silence: seconds between two words of an owner; of silence after which it counts as dead.

    Raises:
        UserError: no file system can be made of `where`.
    """

    def __init__(self, where: str, name: str, *, renew: float = _RENEW, silence: float = _DEAD) -> None:
        self._renew, self._silence = renew, silence
        self.where = f"{where.partition('?')[0].rstrip('/')}/{name}"
        try:
            self._fs, root = (
                fs.FileSystem.from_uri(where)
                if "://" in where
                else (fs.LocalFileSystem(), str(Path(where).absolute()))
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"training.storage {where!r}", f"cannot be used: {_first(error)}", "give a folder or a URI"
            ) from error
        self._root = f"{root.rstrip('/')}/{name}"

    # ---------------------------------------------------------------- ownership

    @contextmanager
    def owned_by(self, folder: RunFolder) -> Iterator[None]:
        """Write there alone, as long as the block lasts.

        Raises:
            UserError: another folder writes there, or the storage cannot be written.
        """
        owner = _identity(folder)
        with self._explained():
            self._wait_for_silence(owner)
            self._say_owner(owner)
            time.sleep(min(1.0, self._silence / 10))  # who says so at the same moment has now been heard
            if not self._is_owner(owner):
                raise self._taken()
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(self._renew):
                with suppress(OSError):  # copying tells; a later renewal may work
                    if self._is_owner(owner):
                        self._say_owner(owner)

        thread = threading.Thread(target=renew, name="storage-owner", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(OSError):  # a word that stays goes stale
                if self._is_owner(owner):
                    self._fs.delete_file(self._path(_OWNER))

    def _wait_for_silence(self, owner: str) -> None:
        found = self._read(_OWNER)
        deadline = time.monotonic() + self._silence
        while found is not None and _owner_in(found) != owner and time.monotonic() < deadline:
            time.sleep(min(1.0, self._silence / 10))
            now = self._read(_OWNER)
            if now is not None and now != found:
                raise self._taken()
            found = now

    def _taken(self) -> UserError:
        return UserError(
            f"training.storage {self.where}",
            "another run is writing there",
            "wait for it, or choose another name or storage",
        )

    def _is_owner(self, owner: str) -> bool:
        """Whether nobody else has said so since; a word that is gone counts as ours."""
        found = self._read(_OWNER)
        return found is None or _owner_in(found) == owner

    def _say_owner(self, owner: str) -> None:
        self._write(_OWNER, json.dumps({"owner": owner, "time": time.time()}).encode())

    # ---------------------------------------------------------------- to the storage

    def put(self, folder: RunFolder, held: Path, step: int, removable: Removable) -> None:
        """Copy a checkpoint, with the run's small files; then remove older ones.

        Args:
            held: the checkpoint's files.
            removable: of the steps there are, which need not stay.

        Raises:
            UserError: the storage could not be written.
        """
        with self._explained():
            there = f"checkpoints/step-{step:010d}"
            if step not in self._steps():
                # What an interrupted copy left may have other files: of another number of workers.
                self._fs.delete_dir_contents(self._path(there), missing_dir_ok=True)
                for file in sorted(path for path in held.rglob("*") if path.is_file()):
                    if file.name != MANIFEST:
                        self._send(file, f"{there}/{file.relative_to(held)}")
                # Moved into place: half a manifest must not look like one.
                self._send(held / MANIFEST, f"{there}/{MANIFEST}.tmp")
                self._fs.move(self._path(f"{there}/{MANIFEST}.tmp"), self._path(f"{there}/{MANIFEST}"))
            self._put_files(folder)
            if folder.start.is_dir() and self._read("start/config.json") is None:
                self._put_folder(folder.start, "start")
            for old in removable(self._steps()):
                self._fs.delete_dir(self._path(f"checkpoints/step-{old:010d}"))

    def put_results(self, folder: RunFolder) -> None:
        """Copy the trained model, evaluations and figures.

        Raises:
            UserError: the storage could not be written.
        """
        with self._explained():
            self._put_files(folder)
            for place in (folder.model, folder.evaluation):
                if place.is_dir():
                    self._put_folder(place, place.name)
            if folder.model.is_dir():  # a run that stopped before its end leaves the model that is there
                self._remove_others(folder.model, "model")

    def _put_files(self, folder: RunFolder) -> None:
        for name in _FILES:
            if (folder.root / name).is_file():
                self._send(folder.root / name, name)

    def _put_folder(self, source: Path, name: str) -> None:
        # config.json last: a copy without it does not count
        files = [path for path in source.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: (path.name == "config.json", path)):
            self._send(file, f"{name}/{file.relative_to(source)}")

    def _remove_others(self, source: Path, name: str) -> None:
        """What a longer run's model does not have: its tokenizer or its shards may have other names."""
        for relative in self._files_below(name):
            if not (source / relative).is_file():
                self._fs.delete_file(self._path(f"{name}/{relative}"))

    # ---------------------------------------------------------------- from the storage

    def fetch(self, folder: RunFolder, run: dict[str, Any], say: Callable[[str], None]) -> None:
        """Bring back a run whose folder is empty, or behind the copy, or damaged.

        Reads the newest local checkpoint once, a second per GiB.

        Args:
            run: the resolved run file as plain data; a copy of another run is refused.
            say: hears what came, and which damaged checkpoint was passed over.

        Raises:
            UserError: there lies another run, or the storage cannot be read.
        """
        with self._explained():
            data = self._read("run.yaml")
            if data is None:
                return
            self._check_run(folder, data, run)
            steps = sorted(self._steps(), reverse=True)
            newest_here = _newest_complete(folder) if steps else 0
            for step in steps:
                if step <= newest_here:
                    return
                if self._fetch_checkpoint(folder, step, say):
                    for name in _FILES:
                        self._receive_if_there(name, folder.root / name)
                    if not folder.start.is_dir():
                        self._receive_folder("start", folder.start)
                    say(f"fetched the checkpoint of step {step} from {self.where}")
                    return

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints there.

        Raises:
            UserError: the storage cannot be read.
        """
        with self._explained():
            return self._steps()

    def _steps(self) -> list[int]:
        selector = fs.FileSelector(self._path("checkpoints"), recursive=True, allow_not_found=True)
        manifests = (_MANIFEST_PATH.search(info.path) for info in self._fs.get_file_info(selector))
        return sorted(int(found.group(1)) for found in manifests if found)

    def _check_run(self, folder: RunFolder, data: bytes, run: dict[str, Any]) -> None:
        there = folder.root / ".fetched"
        there.mkdir(parents=True, exist_ok=True)
        try:
            (there / "run.yaml").write_bytes(data)
            RunFolder(there).check(run, place=self.where)
        finally:
            shutil.rmtree(there, ignore_errors=True)

    def _fetch_checkpoint(self, folder: RunFolder, step: int, say: Callable[[str], None]) -> bool:
        final = folder.checkpoint(step)
        beside = final.with_suffix(".tmp")
        shutil.rmtree(beside, ignore_errors=True)
        self._receive_folder(f"checkpoints/{final.name}", beside)
        problem, _ = verify(beside, step)
        if problem is not None:
            say(f"warning: {self.where}/checkpoints/{final.name} is passed over: {problem}")
            shutil.rmtree(beside)
            # Without its manifest it no longer counts: the step is copied again when the run reaches it.
            manifest = self._path(f"checkpoints/{final.name}/{MANIFEST}")
            self._fs.move(manifest, f"{manifest}.damaged")
            return False
        shutil.rmtree(final, ignore_errors=True)
        beside.rename(final)
        return True

    # ---------------------------------------------------------------- bytes

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _read(self, name: str) -> bytes | None:
        if self._fs.get_file_info(self._path(name)).type != fs.FileType.File:
            return None
        with self._fs.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def _write(self, name: str, data: bytes) -> None:
        self._make_parent(name)
        with self._fs.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def _send(self, file: Path, name: str) -> None:
        self._make_parent(name)
        with file.open("rb") as source, self._fs.open_output_stream(self._path(name)) as target:
            _copy(source, target)

    def _receive(self, name: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.tmp")
        with self._fs.open_input_stream(self._path(name)) as source, beside.open("wb") as target:
            _copy(source, target)
        beside.replace(file)

    def _receive_if_there(self, name: str, file: Path) -> None:
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.File:
            self._receive(name, file)

    def _receive_folder(self, name: str, folder: Path) -> None:
        for relative in self._files_below(name):
            self._receive(f"{name}/{relative}", folder / relative)

    def _files_below(self, name: str) -> list[str]:
        selector = fs.FileSelector(self._path(name), recursive=True, allow_not_found=True)
        return [
            info.path.removeprefix(f"{self._path(name)}/")
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File
        ]

    def _make_parent(self, name: str) -> None:
        self._fs.create_dir(self._path(name).rsplit("/", 1)[0], recursive=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are of these kinds
            raise UserError(
                f"training.storage {self.where}",
                f"cannot be read or written: {_first(error)}",
                "check the address, your credentials and the network; the run's own folder is complete",
            ) from error


def _newest_complete(folder: RunFolder) -> int:
    """The newest local step whose files are as they were written, 0 without any."""
    steps = reversed(folder.checkpoint_steps())
    return next((step for step in steps if verify(folder.checkpoint(step), step)[0] is None), 0)


def _copy(source: IO[bytes], target: Any) -> None:
    while block := source.read(_BLOCK):
        target.write(block)


def _identity(folder: RunFolder) -> str:
    """A random word that stays with the folder."""
    file = folder.root / ".identity"
    if not file.is_file():
        folder.root.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex, "utf-8")
    return file.read_text("utf-8")


def _owner_in(word: bytes) -> str | None:
    """Whose word it is; none if its writer died while writing it."""
    try:
        return str(json.loads(word)["owner"])
    except (ValueError, KeyError, TypeError):
        return None


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
