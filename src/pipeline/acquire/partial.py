"""A file that grows under a name of its own until it is whole: it survives kills, and no half is ever published."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.command import Log
from pipeline.errors import DownloadError
from pipeline.files import read_json, write_json


@dataclass(frozen=True)
class Checksum:
    """What a file must hash to: `kind` is md5 or sha256, `value` lower-case hex digits."""

    kind: str
    value: str


class PartFile:
    """``<out>.part`` and, beside it, ``<out>.part.json``: where its bytes come from, so that a later try can go on.

    A context manager that holds a lock on the part: a second download of the same file waits, in one line.
    Every OSError (disk full) is a DownloadError that names the file.
    """

    def __init__(self, out: Path, source: str, log: Log) -> None:
        """Name the final file, and the `source` of its bytes as it may be stored (no secret)."""
        self.out = Path(out)
        self.path = self.out.with_name(self.out.name + ".part")
        self._notes = self.path.with_name(self.path.name + ".json")
        self._source, self._log = source, log
        self._stack = ExitStack()
        self._file: IO[bytes]
        self.validator = ""

    def __enter__(self) -> PartFile:
        with self.errors(), ExitStack() as stack:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = stack.enter_context(self._locked())
            notes = read_json(self._notes) if self._notes.is_file() else {}
            if isinstance(notes, dict) and notes.get("source") == self._source:
                self.validator = str(notes.get("validator", ""))
            if not self.validator:
                self._file.truncate(0)
            self._file.seek(0, os.SEEK_END)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack, self.errors():
            if self.size == 0 and self._is_ours(self._file):  # nothing came: nothing to go on with
                self._notes.unlink(missing_ok=True)
                self.path.unlink()

    def _locked(self) -> IO[bytes]:
        waiting = False
        while True:
            file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - the caller's stack closes it
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not waiting:
                    self._log(f"waiting for another download of {self.out}")
                waiting = True
                fcntl.lockf(file, fcntl.LOCK_EX)
            if self._is_ours(file):
                return file
            file.close()  # the other download has published it meanwhile

    def _is_ours(self, file: IO[bytes]) -> bool:
        """Whether the part's name still leads to the open `file`."""
        return self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat())

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def restart(self, validator: str) -> None:
        """Begin anew with bytes of the version that `validator` names (an ETag or date; "" cannot be gone on with)."""
        with self.errors():
            self._file.truncate(0)
            self._file.seek(0)
            write_json(self._notes, {"source": self._source, "validator": validator})
            self.validator = validator

    def write(self, data: bytes) -> None:
        """Append."""
        with self.errors():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def publish(self, checksum: Checksum | None) -> str:
        """Check the whole file, rename it to its final name and return its sha256.

        Raises:
            DownloadError: the checksum is another; the part is deleted.
        """
        with self.errors():
            self._file.seek(0)
            digests = {kind: hashlib.new(kind) for kind in {"sha256", checksum.kind if checksum else "sha256"}}
            while block := self._file.read(1 << 20):
                for digest in digests.values():
                    digest.update(block)
            if checksum is not None and digests[checksum.kind].hexdigest() != checksum.value:
                self._notes.unlink(missing_ok=True)
                self.path.unlink()
                raise DownloadError(
                    f"{self._source}: its {checksum.kind} is {digests[checksum.kind].hexdigest()}, not the expected "
                    f"{checksum.value}; it was deleted: run again, and if it stays so, correct the checksum"
                )
            os.fsync(self._file.fileno())
            os.replace(self.path, self.out)
            self._notes.unlink(missing_ok=True)
        return digests["sha256"].hexdigest()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an OSError into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its notes are damaged; delete it"
            raise DownloadError(
                f"{self.path}: cannot be written ({reason}); what is there is kept for the next run"
            ) from None
