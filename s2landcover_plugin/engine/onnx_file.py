"""What an ONNX file is made of, read without running it: versions, operators, external data, metadata.

A reader of the Protocol Buffers wire format (protobuf.dev, "Encoding") for the few fields of onnx.proto3 that matter. The
runtime would open whatever file a model names as external data, so that is checked before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Iterator

from .errors import EngineError

MAX_BYTES = 2 * 2**30
"""Largest model file, which is the limit of its format, and largest file of external data."""
LFS_MARK = b"version https://git-lfs"
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training", "ai.onnx.preview.training")
"""Operator sets that onnxruntime brings along; others come from libraries that are never loaded."""
MAX_DEPTH = 16
"""Graphs within attributes of nodes within graphs."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class OnnxFacts:
    """What a model file says.

    Attributes:
        ir_version: of the format; 0 if it is not stated.
        opsets: domain -> version of the operators.
        operators: (domain, name) of all that are used.
        functions: (domain, name) of those that the file defines itself.
        external: names of external data files, as the model gives them.
        metadata: key -> text.
        n_nodes: in the main graph.
    """

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    n_nodes: int = 0
    stamp: tuple[int, ...] = ()
    """What tells this file from another one in its place."""

    @property
    def foreign_operators(self) -> list[str]:
        """Operators that neither onnxruntime nor the file itself has."""
        known = {domain for domain, _ in self.functions}
        foreign = {(d, n) for d, n in self.operators - self.functions if d not in STANDARD_DOMAINS and d not in known}
        return sorted(f"{domain}.{name}" for domain, name in foreign)


def file_stamp(path: str) -> tuple[int, ...]:
    """Number, size and time of change of a file."""
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def inspect_model(path: str) -> OnnxFacts:
    """Read what a model file says, and check that it can be opened safely.

    Raises:
        EngineError: it is not there or no complete ONNX file, uses operators from elsewhere, or names data outside its own folder.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise EngineError("The model is not a file", path, "choose an .onnx file")
        if size > MAX_BYTES:
            raise EngineError(f"The model has {size / 2**30:.1f} GiB", path, f"use one of at most {MAX_BYTES / 2**30:g} GiB")
        stamp = file_stamp(path)
        content = file.read_bytes()
    except OSError as err:
        raise EngineError(f"The model cannot be opened ({err.strerror or err})", path, "choose an .onnx file that exists") from err
    if not content or content.startswith(LFS_MARK):
        what = "is a Git LFS pointer, not the model itself" if content else "is empty"
        raise EngineError(f"The model file {what}", path, "get the file again (git lfs pull, or download it)")
    facts = _model(memoryview(content), path)
    facts.stamp = stamp
    if not facts.n_nodes or not facts.opsets:
        raise EngineError("The file is no ONNX model", path, "export the network to ONNX first (torch.onnx.export, tf2onnx)")
    if facts.foreign_operators:
        fix = "export it with standard operators only; libraries of custom operators are not loaded"
        raise EngineError(f"The model needs custom operators ({', '.join(facts.foreign_operators[:5])})", path, fix)
    for name in sorted(facts.external):
        _check_external(file, name)
    return facts


def _check_external(model: Path, name: str) -> None:
    """Refuse external data that lies elsewhere than beside the model, or behind a link."""
    inside = "its data files must lie in the model's own folder, and be no links"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    odd = any(c in "*\\\ufffd" or not c.isprintable() for c in name) or "_ORT_MEM_ADDR_" in name or (model.parent / name) == model
    if odd or not name or posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
        raise EngineError(f"The model wants to read a file outside its folder ({name or 'no name'})", str(model), inside)
    folder = model.resolve().parent
    place = folder
    for part in windows.parts:
        place = place / part
        if place.is_symlink():
            raise EngineError(f"The data file {name} of the model is a link", str(model), inside)
    if not place.is_file():
        raise EngineError(f"The data file {name} of the model is missing", str(model), "put it beside the model")
    if place.stat().st_size > MAX_BYTES:
        raise EngineError(f"The data file {name} of the model is too large", str(model), f"use one of at most {MAX_BYTES / 2**30:g} GiB")


class _CutOff(Exception):
    """The bytes end within a field, or are none of this format."""


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while at < len(view) and shift < 70:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
    raise _CutOff


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message; groups, which onnx.proto3 has not, are refused."""
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _CutOff
        if not number or at + length > len(view):
            raise _CutOff
        yield number, view[at : at + length]
        at += length


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise _CutOff
    return bytes(value).decode("utf-8", "replace")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _CutOff
    return value


def _model(view: memoryview, path: str) -> OnnxFacts:
    facts = OnnxFacts()
    try:
        for number, value in _fields(view):
            if number == 1 and isinstance(value, int):
                facts.ir_version = value
            elif number == 8:
                domain, version = _pair(value, 1, 2)
                facts.opsets[str(domain)] = version if isinstance(version, int) else 0
            elif number == 14:
                key, text = _pair(value, 1, 2)
                facts.metadata[str(key)] = str(text)
            elif number == 7:
                facts.n_nodes += _graph(_message(value), facts, 0)
            elif number == 25:
                _function(_message(value), facts)
    except _CutOff:
        fix = "the file is cut off or damaged, or no ONNX model: get it again"
        raise EngineError("The model cannot be read", path, fix) from None
    return facts


def _pair(value: int | memoryview, first: int, second: int) -> tuple[str | int, str | int]:
    found: dict[int, str | int] = {first: "", second: ""}
    for number, content in _fields(_message(value)):
        if number in found:
            found[number] = content if isinstance(content, int) else _text(content)
    return found[first], found[second]


def _graph(view: memoryview, facts: OnnxFacts, depth: int) -> int:
    """Take up a graph; returns its number of nodes."""
    if depth > MAX_DEPTH:
        raise _CutOff
    n_nodes = 0
    for number, value in _fields(view):
        if number == 1:
            n_nodes += 1
            _node(_message(value), facts, depth)
        elif number == 5:
            _tensor(_message(value), facts)
        elif number == 15:
            _sparse(_message(value), facts)
    return n_nodes


def _node(view: memoryview, facts: OnnxFacts, depth: int) -> None:
    domain, name = "", ""
    for number, value in _fields(view):
        if number == 4:
            name = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            _attribute(_message(value), facts, depth)
    facts.operators.add((domain, name))


def _attribute(view: memoryview, facts: OnnxFacts, depth: int) -> None:
    """Take up the tensors and graphs that an attribute holds."""
    for number, value in _fields(view):
        if number in (5, 10):
            _tensor(_message(value), facts)
        elif number in (6, 11):
            _graph(_message(value), facts, depth + 1)
        elif number in (22, 23):
            _sparse(_message(value), facts)


def _sparse(view: memoryview, facts: OnnxFacts) -> None:
    for number, value in _fields(view):
        if number in (1, 2):
            _tensor(_message(value), facts)


def _tensor(view: memoryview, facts: OnnxFacts) -> None:
    for number, value in _fields(view):
        if number == 13:
            key, text = _pair(value, 1, 2)
            if key == "location":
                facts.external.add(str(text))


def _function(view: memoryview, facts: OnnxFacts) -> None:
    name, domain = "", ""
    for number, value in _fields(view):
        if number == 1:
            name = _text(value)
        elif number == 10:
            domain = _text(value)
        elif number == 7:
            _node(_message(value), facts, 0)
        elif number == 11:
            _attribute(_message(value), facts, 0)
    facts.functions.add((domain, name))
