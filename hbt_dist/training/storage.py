"""Copy a run to other storage while it trains, and download the newest complete copy when it starts.

STORAGE/RUN_NAME/ has the layout of the run's folder; a checkpoint is complete if it has a manifest, which is
written last. run.yaml is written first, so that a start of a different run is refused. The newest start of a
run is the only writer: it replaces owner.json, and an earlier start fails at its next copy. Ray Train's
storage copies only what workers report to Ray: it serves no other launcher, and it verifies no manifest.
Cost: each checkpoint is read once and sent; only the end of a run waits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from hbt_dist.common.addresses import open_address
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import atomic_file, atomic_folder
from hbt_dist.training.checkpoints.manifest import MANIFEST, verify
from hbt_dist.training.checkpoints.store import newest_complete
from hbt_dist.training.run_folder import RunFolder, check_same_run, checkpoint_name, run_file_text

_RUN_FILE = "run.yaml"
_FILES = (_RUN_FILE, "provenance.json", "metrics.jsonl", "validation.jsonl", "trackers.json", "log.txt")
_OWNER = "owner.json"


class RunStorage:
    """The copy of a run's folder below an address: a folder, or a URI that pyarrow reads (s3://, gs://).

    Raises (all methods):
        UserError: the storage cannot be used, has a different run, or a later start of the run writes there.
    """

    def __init__(self, address: str, name: str, folder: RunFolder) -> None:
        self.address = f"{address.partition('?')[0].rstrip('/')}/{name}"
        self._folder = folder
        process = f"process {os.getpid()} on {socket.gethostname()}"
        self._owner = json.dumps({"owner": f"{process}, output_dir {folder.root.absolute()}"}).encode()
        with self._explained():
            file_system, root = open_address(address)
            self._fs = fs.SubTreeFileSystem(f"{root}/{name}", file_system)

    def take_over(self, run: dict[str, Any], say: Callable[[str], None]) -> None:
        """Become the only writer, and download the newest complete checkpoint if it is newer than here."""
        with self._explained():
            if (recorded := self._read(_RUN_FILE)) is not None:
                check_same_run(recorded, run, self.address, "training.storage or name")
            self._fs.create_dir("checkpoints", recursive=True)
            self._write(_RUN_FILE, run_file_text(run).encode())
            self._write(_OWNER, self._owner)
            steps = self.steps()
            local = newest_complete(self._folder.checkpoints) if steps else None
            newer = (step for step in reversed(steps) if local is None or step > local.step)
            step = next((step for step in newer if self._download_checkpoint(step, say)), None)
            if step is None:
                return
            for name in filter(self._exists, _FILES):
                with atomic_file(self._folder.root / name) as temporary:
                    fs.copy_files(name, str(temporary), source_filesystem=self._fs)
            if not self._folder.start.is_dir() and self._exists("start/config.json"):
                with atomic_folder(self._folder.start) as temporary:
                    fs.copy_files("start", str(temporary), source_filesystem=self._fs)
            say(f"fetched the checkpoint of step {step} from {self.address}")

    def put(self, held: Path, step: int, removable: Callable[[list[int]], set[int]]) -> None:
        """Copy a checkpoint with the run's small files, then remove older copies."""
        with self._explained():
            self._put_files()
            if step not in self.steps():
                self._upload(held, f"checkpoints/{checkpoint_name(step)}", last=MANIFEST)
            if self._folder.start.is_dir() and not self._exists("start/config.json"):
                self._upload(self._folder.start, "start", last="config.json")
            for old in removable(self.steps()):
                self._fs.delete_dir(f"checkpoints/{checkpoint_name(old)}")

    def put_results(self) -> None:
        """Copy the trained model, evaluations and small files."""
        with self._explained():
            self._put_files()
            if self._folder.model.is_dir():
                self._upload(self._folder.model, "model", last="config.json")
            if self._folder.evaluation.is_dir():
                self._send(self._folder.evaluation, "evaluation")

    def release(self) -> None:
        """Let a different run use the address if this start is the owner and nothing complete is there."""
        with self._explained():
            if (
                self._read(_OWNER) == self._owner
                and not self.steps()
                and not self._exists("model/config.json")
            ):
                self._fs.delete_file(_RUN_FILE)

    def steps(self) -> list[int]:
        """Return the steps of the complete copies, in order."""
        with self._explained():
            selector = fs.FileSelector("checkpoints", recursive=True, allow_not_found=True)
            pattern = re.compile(rf"checkpoints/step-(\d{{10}})/{re.escape(MANIFEST)}")
            matches = (pattern.fullmatch(info.path) for info in self._fs.get_file_info(selector))
            return sorted(int(match[1]) for match in matches if match)

    def _put_files(self) -> None:
        if (owner := self._read(_OWNER)) != self._owner:
            problem = f"a later start of the run writes there: {(owner or b'unknown').decode()}"
            raise UserError(f"training.storage {self.address}", problem, "stop one of them")
        for name in _FILES:
            if (self._folder.root / name).is_file():
                self._send(self._folder.root / name, name)

    def _upload(self, source: Path, name: str, *, last: str) -> None:
        """Replace a folder; `last` gets its name when the copy is complete."""
        self._fs.delete_dir_contents(name, missing_dir_ok=True)
        self._fs.create_dir(name, recursive=True)
        for path in source.iterdir():
            self._send(path, f"{name}/{path.name}.tmp" if path.name == last else f"{name}/{path.name}")
        self._fs.move(f"{name}/{last}.tmp", f"{name}/{last}")

    def _download_checkpoint(self, step: int, say: Callable[[str], None]) -> bool:
        final = self._folder.checkpoint(step)
        name = f"checkpoints/{final.name}"
        try:
            with atomic_folder(final) as temporary:
                fs.copy_files(name, str(temporary), source_filesystem=self._fs)
                if problem := verify(temporary, step)[0]:
                    raise UserError(f"{self.address}/{name}", f"is passed over: {problem}")
                shutil.rmtree(final, ignore_errors=True)
        except UserError as error:
            say(f"warning: {error}")
            self._fs.delete_file(f"{name}/{MANIFEST}")  # the run replaces the copy when it reaches the step
            return False
        return True

    def _send(self, source: Path, name: str) -> None:
        if source.is_dir():
            self._fs.create_dir(name, recursive=True)
        fs.copy_files(str(source), name, destination_filesystem=self._fs)

    def _exists(self, name: str) -> bool:
        return bool(self._fs.get_file_info(name).type == fs.FileType.File)

    def _read(self, name: str) -> bytes | None:
        return self._fs.open_input_stream(name).read() if self._exists(name) else None

    def _write(self, name: str, content: bytes) -> None:
        with self._fs.open_output_stream(name) as stream:
            stream.write(content)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are subclasses of these
            location, problem = f"training.storage {self.address}", f"cannot be used: {first_line(error)}"
            remedy = "check the address, your credentials and the network; the run's own folder is complete"
            raise UserError(location, problem, remedy) from error
