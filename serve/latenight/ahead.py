"""Work that begins before its result is asked for: files are read while the one before is scored."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], n: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item in order, with the future of work(item), while the work on the n items after it goes on.

    Each runs in a thread of its own: reading mostly waits for a disk and releases the interpreter's lock. What work
    raises is raised by Future.result, at the item's turn and not before. The threads end with the process, so that a
    file system that hangs cannot keep a daemon from leaving.

    Args:
        work: called once for each item, in any thread.
        items: taken n + 1 ahead.
        n: how many may be worked on beside the one that is given.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, _begin(work, item)))
        if len(begun) > n:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _begin(work: Callable[[Item], Result], item: Item) -> Future[Result]:
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001  (raised again by Future.result)
            future.set_exception(error)

    Thread(target=run, name="ahead", daemon=True).start()
    return future
