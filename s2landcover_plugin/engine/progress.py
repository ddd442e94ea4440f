"""How far a run is, what it has to say, and whether it should stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from .errors import Cancelled


def _ignore(_: object) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Progress:
    """Four callbacks between a run and whoever watches it; called from the thread that started the run only."""

    on_fraction: Callable[[float], None] = _ignore
    """Receives the share done, 0 to 1."""
    on_info: Callable[[str], None] = _ignore
    on_warning: Callable[[str], None] = _ignore
    is_cancelled: Callable[[], bool] = _never
    start: float = 0.0
    """Share at which this part of the run begins."""
    stop: float = 1.0
    """Share at which it ends."""

    def report(self, fraction: float) -> None:
        """Tell the share done of this part, 0 to 1, and stop the run if the user asked for it."""
        self.check_cancelled()
        self.on_fraction(self.start + (self.stop - self.start) * min(max(fraction, 0.0), 1.0))

    def info(self, text: str) -> None:
        """Tell something worth knowing."""
        self.on_info(text)

    def warn(self, text: str) -> None:
        """Tell something that may make the result wrong or less useful."""
        self.on_warning(text)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the user asked to stop."""
        if self.is_cancelled():
            raise Cancelled

    def part(self, start: float, stop: float) -> Progress:
        """The same watcher for a part of this run that goes from `start` to `stop` (shares of this part)."""
        span = self.stop - self.start
        return Progress(
            self.on_fraction,
            self.on_info,
            self.on_warning,
            self.is_cancelled,
            self.start + span * start,
            self.start + span * stop,
        )
