"""Whoever watches a turn cannot harm it."""

from __future__ import annotations

from clew.runtime.ports.people import TurnNews, Watch


class Watched:
    """A watch that is told nothing more once it failed: the turn goes on, and `error` says why nobody saw it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.error: Exception | None = None

    def __call__(self, news: TurnNews) -> None:
        if self.error is not None:
            return
        try:
            self._watch(news)
        except Exception as error:  # noqa: BLE001 - the supervisor of foreign code: it becomes part of the outcome
            self.error = error
