"""Names and colours of clusters: suggested from their spectra, or told by the user in a table."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import replace
from itertools import chain, count
from typing import Mapping, Sequence

from . import signatures
from .errors import EngineError
from .legend import LegendClass, clean_name
from .palette import Rgb, distinct
from .progress import Progress
from .signatures import Suggestion

TONES: Mapping[str, tuple[Rgb, ...]] = {
    signatures.WATER: ((51, 34, 136), (90, 120, 200), (20, 20, 80), (130, 160, 225)),
    signatures.DENSE: ((17, 119, 51), (0, 70, 30), (60, 165, 90), (0, 45, 15)),
    signatures.SPARSE: ((153, 153, 51), (190, 205, 110), (110, 110, 20), (215, 228, 160), (80, 90, 15)),
    signatures.SOIL: ((221, 204, 119), (230, 159, 0), (168, 118, 60), (240, 226, 175), (120, 75, 30)),
    signatures.BUILT_UP: ((204, 102, 119), (136, 34, 85), (170, 68, 153), (235, 160, 170)),
    signatures.SNOW: ((136, 204, 238), (200, 235, 250), (95, 170, 205)),
    signatures.SHADOW: ((0, 0, 0), (60, 60, 60), (95, 95, 95)),
    signatures.CLOUD: ((187, 187, 187), (225, 225, 225), (150, 150, 150)),
}
"""Colours of each suggested name, the main one first; the main ones are those of palette.BASE."""
LARGEST_TABLE = 1_000_000
FIX = "give it the columns code and name, and color (#rrggbb) if wanted; the table (CSV) that Cluster raster writes can be edited"
Entry = tuple[str, "Rgb | None"]


def named_classes(suggestions: Sequence[Suggestion], codes: Sequence[int], known: Sequence[LegendClass] = ()) -> list[LegendClass]:
    """Classes for clusters: the suggested names, numbered where several clusters have the same; `Cluster <code>` where there is none.

    Args:
        known: classes whose names and colours are taken.
    """
    texts = [each.text for each in suggestions]
    taken = {each.name for each in known}
    names = []
    for text, code in zip(texts, codes):
        alone = [text] if text and texts.count(text) == 1 and f"{text} 1" not in taken else []
        numbered = (f"{text} {i}" for i in count(1)) if text else (f"Cluster {i}" for i in count(code))
        names.append(next(name for name in chain(alone, numbered) if name not in taken))
        taken.add(names[-1])
    chosen = _colours_for([each.names[:1] for each in suggestions], [each.rgb for each in known])
    return [LegendClass(code, name, rgb) for code, name, rgb in zip(codes, names, chosen)]


def _colours_for(families: Sequence[tuple[str, ...]], used: Sequence[Rgb]) -> list[Rgb]:
    """A colour for each class; the first class of a name before the second, so that water has the same blue however many there are."""
    earlier = [families[:i].count(family) for i, family in enumerate(families)]
    order = sorted(range(len(families)), key=lambda i: (not families[i], earlier[i], i))
    reserved = [rgb for tones in TONES.values() for rgb in tones]
    chosen = distinct([TONES[families[i][0]] if families[i] else () for i in order], used, reserved)
    return [chosen[order.index(i)] for i in range(len(families))]


def read_class_table(path: str) -> dict[int, Entry]:
    """Names and colours by code from a CSV that people wrote or edited; comma, semicolon or tab between the columns.

    Raises:
        EngineError: it is no such table, or an entry in it is wrong.
    """
    try:
        if os.path.getsize(path) > LARGEST_TABLE:
            raise EngineError("The table of class names is too large", path, FIX)
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as err:
        raise EngineError(f"The table of class names cannot be read ({err.strerror})", path, "check the path") from err
    except UnicodeDecodeError as err:
        raise EngineError("The table of class names is not UTF-8 text", path, "save it as CSV UTF-8") from err
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        return _entries(rows, path)
    except csv.Error as err:
        raise EngineError(f"The table of class names cannot be read ({err})", f"{path}, line {rows.line_num}", FIX) from err


def _entries(rows: csv.DictReader[str], path: str) -> dict[int, Entry]:
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    if "code" not in columns or "name" not in columns:
        raise EngineError("The table of class names has no columns code and name", path, FIX)
    colour = columns.get("color", columns.get("colour"))
    entries: dict[int, Entry] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if not any(value.strip() for value in row.values() if isinstance(value, str)):
            continue
        code, name = (row[columns["code"]] or "").strip(), clean_name(row[columns["name"]] or "")
        # spreadsheets write whole numbers as 1.0
        if not re.fullmatch(r"\d{1,3}(\.0+)?", code):
            raise EngineError(f"{code or 'An empty text'} is no class code", where, FIX)
        number = int(float(code))
        if number in entries:
            raise EngineError(f"The code {number} is there twice", where, FIX)
        if not name:
            raise EngineError(f"The class {number} has no name", where, FIX)
        entries[number] = (name, _colour((row[colour] or "") if colour else "", where))
    return entries


def _colour(text: str, where: str) -> Rgb | None:
    if not text.strip():
        return None
    digits = re.fullmatch(r"\s*#?([0-9a-fA-F]{6})\s*", text)
    if not digits:
        raise EngineError(f"{text.strip()} is no colour", where, "write it as #rrggbb, or leave it empty")
    return tuple(bytes.fromhex(digits[1]))


def renamed(legend: Sequence[LegendClass], path: str, progress: Progress) -> tuple[LegendClass, ...]:
    """The legend with the names and colours of a user's table; classes that it lacks keep theirs.

    Raises:
        EngineError: as read_class_table.
    """
    entries = read_class_table(path)
    unknown = sorted(set(entries) - {each.code for each in legend})
    if unknown:
        progress.warn(f"{path} names {', '.join(map(str, unknown))}, which are no classes of this map.")
    changed = []
    for each in legend:
        name, rgb = entries.get(each.code, (each.name, None))
        changed.append(replace(each, name=name, rgb=rgb or each.rgb))
    for number, each in enumerate(changed):
        if twin := next((other for other in changed[:number] if other.rgb == each.rgb), None):
            progress.warn(f"{path}: the classes {twin.code} {twin.name} and {each.code} {each.name} have the same colour.")
    return tuple(changed)
