"""Byte ranges of remote files kept on disk, for the next run that asks for the same bytes of the same version of a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Mapping

LIMIT_BYTES = 1_000_000_000
"""What was not used for longest is removed when there is more."""
SETTLED_S = 60.0
"""A file changed this shortly before it was read may change again without a new date (RFC 9110, 8.8.2.2)."""
DIGEST_BYTES = 32


class RangeCache:
    """A folder of byte ranges. Whatever goes wrong with it, the bytes come from the network instead."""

    def __init__(self, folder: str) -> None:
        """
        Args:
            folder: made when it is needed; empty: nothing is kept.
        """
        self._folder = Path(folder) if folder else None

    def get(self, address: str, version: str, start: int, stop: int) -> bytes | None:
        """The bytes, if they are there and undamaged."""
        if self._folder is None or not version:
            return None
        path = self._path(self._folder, address, version, start, stop)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == digest else None

    def put(self, address: str, version: str, start: int, stop: int, data: bytes | bytearray) -> None:
        """Keep bytes."""
        if self._folder is None or not version:
            return
        path = self._path(self._folder, address, version, start, stop)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(data).digest())
                file.write(data)
            os.replace(temporary, path)

    def trim(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Remove what was not used for longest until the rest is within the limit."""
        if self._folder is None or not self._folder.is_dir():
            return
        with contextlib.suppress(OSError):
            kept = [(path.stat(), path) for path in self._folder.glob("*/*")]
            total = sum(facts.st_size for facts, _ in kept)
            for facts, path in sorted(kept, key=lambda entry: entry[0].st_mtime):
                if total <= limit_bytes:
                    break
                path.unlink()
                total -= facts.st_size

    @staticmethod
    def _path(folder: Path, address: str, version: str, start: int, stop: int) -> Path:
        name = hashlib.sha256(f"{address}\n{version}\n{start}-{stop}".encode()).hexdigest()
        return folder / name[:2] / name


def settled_version(size: int, headers: Mapping[str, str]) -> str:
    """What identifies the content of a file by the headers of an answer; empty where they cannot prove that it is the same.

    Size and ETag, or size and date; the date must lie a minute before the answer, because servers count in seconds (nginx makes even
    its ETag from date and size).
    """
    tag, changed, now = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Date"))
    if tag.startswith("W/") or not (tag or changed):
        return ""
    if changed:
        try:
            age_s = (parsedate_to_datetime(now) - parsedate_to_datetime(changed)).total_seconds()
        except (TypeError, ValueError, IndexError):
            return ""
        if age_s < SETTLED_S:
            return ""
    return f"{size} {tag} {changed}"
