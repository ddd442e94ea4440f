"""Waiting for work in other threads while progress and cancel stay alive."""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Event, Thread
from typing import Any, Callable, Mapping, TypeVar

from .progress import Progress

POLL_S = 0.1
"""How often a waiting run looks whether the user wants to stop."""

K = TypeVar("K")
T = TypeVar("T")


def in_background(work: Callable[[Event], T], progress: Progress, share: Callable[[], float] = lambda: 0.0) -> T:
    """Run `work` in a thread and wait for it; on cancel leave it behind and tell it through its event.

    Args:
        share: how far the work is, 0 to 1; it may raise what ends the waiting.

    Raises:
        Cancelled: the user asked to stop. Whatever `work` raises.
    """
    stopped = Event()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(stopped))
        except BaseException as err:  # handed over to whoever waits
            future.set_exception(err)

    # a thread that nobody waits for at the end of the process, unlike those of an executor
    Thread(target=run, daemon=True).start()
    try:
        return gather({"": future}, progress, share)[""]
    finally:
        stopped.set()


def gather(futures: Mapping[K, Future[T]], progress: Progress, share: Callable[[], float]) -> dict[K, T]:
    """Results of all futures; the first failure is raised at once.

    Args:
        share: how far the work is, 0 to 1.

    Raises:
        Cancelled: the user asked to stop.
    """
    pending: set[Future[Any]] = set(futures.values())
    while pending:
        progress.report(share())
        done, pending = wait(pending, timeout=POLL_S)
        for future in done:
            future.result()
    return {name: future.result() for name, future in futures.items()}
