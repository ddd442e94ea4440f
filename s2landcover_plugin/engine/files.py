"""Output files that appear complete and together, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Sequence

from .errors import EngineError

SIDECARS = (".aux.xml", ".ovr", ".msk")
"""What GDAL keeps beside `name.tif` as `name.tif<suffix>`; an old one must not outlive the raster it described."""
HIDDEN = ".s2landcover-"
"""What the names of folders for unfinished files begin with."""
STYLE_SUFFIX = ".qml"
STYLE_MARK = "S2 Land Cover"
"""A style with these words is ours and goes with the raster it was written for; a user's own style is left alone."""


def shown_folder(temporary: str) -> str:
    """The folder of the user in which a temporary file lies, for messages."""
    path = Path(temporary)
    return str(next((folder.parent for folder in path.parents if folder.name.startswith(HIDDEN)), path.parent))


def file_behind(source: str) -> str:
    """The file that a raster or layer is in: of `GPKG:file:table`, `file|layername=…`, `NETCDF:"file":variable`; else the text itself."""
    plain = source.partition("|")[0]
    if os.path.exists(plain):
        return plain
    inside = re.fullmatch(r'[A-Za-z0-9_]{2,}:"?(.+?)"?(?::[^:/\\]*)?', plain)
    return inside[1] if inside and os.path.exists(inside[1]) else plain


class OutputFiles:
    """Files of one run: written under temporary names beside their destinations, renamed when everything succeeded.

    Use as a context manager; leaving it with an exception removes all that was begun and touches no older file.
    """

    def __init__(self, inputs: Sequence[str] = ()) -> None:
        """
        Args:
            inputs: files that the run reads, which it must not replace.
        """
        self._inputs = tuple(file_behind(source) for source in inputs)
        self._pending: dict[Path, Path] = {}
        self._folders: dict[Path, Path] = {}

    def __enter__(self) -> OutputFiles:
        return self

    def path(self, destination: str) -> str:
        """The temporary path to write `destination` under; to be asked for once.

        Raises:
            EngineError: the folder does not exist or cannot be written, or the destination is a folder, an input, or another output.
        """
        final = Path(destination).absolute()
        if final in self._pending:
            raise EngineError("Two outputs have the same name", str(final), "give each output a name of its own")
        if final.exists() and any(os.path.exists(source) and os.path.samefile(source, final) for source in self._inputs):
            raise EngineError("The output is one of the inputs", str(final), "choose another name")
        return str(self._expect(final, self._hidden_folder(final.parent) / final.name))

    def sidecar(self, destination: str, suffix: str) -> str:
        """The temporary path of a file that goes with `destination` and differs in its ending (`.qml`)."""
        final = Path(destination).absolute().with_suffix(suffix)
        return str(self._expect(final, self._hidden_folder(final.parent) / final.name))

    def write_text(self, destination: str, text: str) -> None:
        """Write a whole text file (UTF-8)."""
        self.write(self.path(destination), destination, text)

    def write_sidecar(self, destination: str, suffix: str, text: str) -> None:
        """Write a whole text file beside `destination`."""
        self.write(self.sidecar(destination, suffix), destination, text)

    def folder(self, near: str) -> str:
        """A folder for intermediate files on the disk of `near`; removed at the end in every case."""
        return tempfile.mkdtemp(dir=self._hidden_folder(Path(near).absolute().parent))

    def write(self, path: str, destination: str, text: str) -> None:
        """Write a whole text file (UTF-8) under a temporary path that was asked for before."""
        try:
            Path(path).write_text(text, encoding="utf-8", newline="")
        except OSError as err:
            raise EngineError(f"The output cannot be written ({err.strerror})", destination, "free some disk space") from err

    def _expect(self, final: Path, temporary: Path) -> Path:
        if final.is_dir():
            raise EngineError("The output is a folder", str(final), "add a file name")
        self._pending[final] = temporary
        return temporary

    def _hidden_folder(self, parent: Path) -> Path:
        if parent not in self._folders:
            if not parent.is_dir():
                raise EngineError("The output folder does not exist", str(parent), "create it, or choose another folder")
            try:
                self._folders[parent] = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=parent))
            except OSError as err:
                raise EngineError("The output folder cannot be written", str(parent), "choose a folder you may write to") from err
        return self._folders[parent]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for folder in self._folders.values():
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self) -> None:
        missing = [final for final, temporary in self._pending.items() if not temporary.exists()]
        if missing:
            raise EngineError("An output was not written", str(missing[0]), "free some disk space and run again")
        moves = _Moves()
        try:
            for final, temporary in self._pending.items():
                aside = temporary.parent / "old"
                for suffix in SIDECARS:
                    moves.away(Path(f"{final}{suffix}"), aside)
                style = final.with_suffix(STYLE_SUFFIX)
                if style not in self._pending and _is_our_style(style):
                    moves.away(style, aside)
                moves.away(final, aside)
                for suffix in ("", *SIDECARS):
                    if Path(f"{temporary}{suffix}").exists():
                        moves.move(Path(f"{temporary}{suffix}"), Path(f"{final}{suffix}"))
        except OSError as err:
            moves.undo()
            raise EngineError(
                f"The output cannot be replaced ({err.strerror})",
                str(err.filename2 or err.filename),
                "close the programs that have it open, or choose another name",
            ) from err


def _is_our_style(path: Path) -> bool:
    return path.is_file() and STYLE_MARK in path.read_text(encoding="utf-8", errors="replace")[:500]


class _Moves:
    """Renames that can be taken back."""

    def __init__(self) -> None:
        self._done: list[tuple[Path, Path]] = []

    def move(self, source: Path, target: Path) -> None:
        """Rename, replacing what is there."""
        os.replace(source, target)
        self._done.append((source, target))

    def away(self, path: Path, folder: Path) -> None:
        """Put an old file into `folder`, if it exists."""
        if path.is_file():
            folder.mkdir(exist_ok=True)
            self.move(path, folder / f"{len(self._done)}-{path.name}")

    def undo(self) -> None:
        """Take all renames back, the last one first."""
        for source, target in reversed(self._done):
            os.replace(target, source)
