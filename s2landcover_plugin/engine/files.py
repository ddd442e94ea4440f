"""Output files that appear complete and together, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Sequence

from .errors import EngineError

SIDECARS = (".aux.xml", ".ovr", ".msk")
"""What GDAL keeps beside `name.tif` as `name.tif<suffix>`; an old one must not outlive the raster it described."""


class OutputFiles:
    """Files of one run: written under temporary names beside their destinations, renamed when everything succeeded.

    Use as a context manager; leaving it with an exception removes all that was begun and touches no older file.
    """

    def __init__(self, inputs: Sequence[str] = ()) -> None:
        """
        Args:
            inputs: files that the run reads, which it must not replace.
        """
        self._inputs = tuple(inputs)
        self._pending: dict[Path, Path] = {}
        self._folders: list[Path] = []

    def __enter__(self) -> OutputFiles:
        return self

    def path(self, destination: str) -> str:
        """The temporary path to write `destination` under.

        Raises:
            EngineError: the folder does not exist or cannot be written, or the destination is a folder or an input.
        """
        final = Path(destination).absolute()
        for known, temporary in self._pending.items():
            if known == final:
                return str(temporary)
        if not final.parent.is_dir():
            raise EngineError("The output folder does not exist", str(final.parent), "create it, or choose another folder")
        if final.is_dir():
            raise EngineError("The output is a folder", str(final), "add a file name")
        if final.exists() and any(os.path.exists(source) and os.path.samefile(source, final) for source in self._inputs):
            raise EngineError("The output is one of the inputs", str(final), "choose another name")
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{final.stem}-", dir=final.parent))
        except OSError as err:
            raise EngineError("The output folder cannot be written", str(final.parent), "choose a folder you may write to") from err
        self._folders.append(folder)
        self._pending[final] = folder / final.name
        return str(folder / final.name)

    def sidecar(self, destination: str, suffix: str) -> str:
        """The temporary path of a file that goes with `destination` and differs in its ending (`.qml`)."""
        final = Path(destination).absolute()
        temporary = Path(self.path(destination)).with_suffix(suffix)
        self._pending[final.with_suffix(suffix)] = temporary
        return str(temporary)

    def write_text(self, destination: str, text: str) -> None:
        """Write a whole text file (UTF-8)."""
        Path(self.path(destination)).write_text(text, encoding="utf-8", newline="")

    def folder(self, near: str) -> str:
        """A folder for intermediate files on the disk of `near`; removed at the end in every case."""
        return tempfile.mkdtemp(dir=Path(self.path(near)).parent)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self) -> None:
        missing = [final for final, temporary in self._pending.items() if not temporary.exists()]
        if missing:
            raise EngineError("An output was not written", str(missing[0]), "free some disk space and run again")
        for final, temporary in self._pending.items():
            try:
                os.replace(temporary, final)
            except OSError as err:
                raise EngineError(
                    "The output cannot be replaced", str(final), "close the programs that have it open, or choose another name"
                ) from err
            for suffix in SIDECARS:
                beside, old = Path(f"{temporary}{suffix}"), Path(f"{final}{suffix}")
                if beside.exists():
                    os.replace(beside, old)
                elif old.exists():
                    old.unlink()
