"""Options declared once: default, range and help, for the engine and for the Processing dialog."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from .errors import EngineError


@dataclass(frozen=True)
class OptionFacts:
    """What a dialog needs to show one option, and what the engine accepts."""

    label: str
    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    multiple: bool
    advanced: bool


def option(
    default: Any,
    label: str,
    help: str = "",
    *,
    min: float | None = None,
    max: float | None = None,
    choices: tuple[str, ...] = (),
    multiple: bool = False,
    advanced: bool = False,
) -> Any:
    """A dataclass field that knows its label, help, range and choices.

    `multiple` options hold a tuple of choices.
    """
    facts = OptionFacts(label, help, min, max, choices, multiple, advanced)
    return field(default=default, metadata={"option": facts})


def option_fields(options_class: type) -> list[tuple[Field[Any], OptionFacts]]:
    """The fields of a dataclass made with `option`, in order."""
    return [(f, f.metadata["option"]) for f in fields(options_class) if "option" in f.metadata]


def check_options(options: Any) -> None:
    """Raise EngineError for the first value outside its declared range or choices."""
    for each, facts in option_fields(type(options)):
        value = getattr(options, each.name)
        name = each.name.upper()
        if facts.choices:
            wrong = [v for v in (value if facts.multiple else (value,)) if v not in facts.choices]
            if wrong:
                raise EngineError(
                    f"{wrong[0]!r} is not a choice", name, f"use {'any' if facts.multiple else 'one'} of {', '.join(facts.choices)}"
                )
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            low = -math.inf if facts.minimum is None else facts.minimum
            high = math.inf if facts.maximum is None else facts.maximum
            if not low <= value <= high:
                raise EngineError(f"{value} is out of range", name, f"use a value from {low:g} to {high:g}")
