"""The two exceptions that leave the engine."""

from __future__ import annotations


class EngineError(Exception):
    """Something the user can act on.

    Attributes:
        what: what went wrong, without a full stop.
        where: the file, address, parameter or band it went wrong with.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, where: str, fix: str) -> None:
        # texts of catalogs and servers may hold line breaks and control characters
        what, where, fix = ("".join(c if c.isprintable() else " " for c in " ".join(text.split())) for text in (what, where, fix))
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.where}; {self.fix}."


class Cancelled(Exception):
    """The user asked to stop; nothing that was begun is kept."""
