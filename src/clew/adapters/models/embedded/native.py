"""llama.cpp by way of xllamacpp: the one place that knows the library, which is an optional extra and has no types.

Facts, from the source and measurements of xllamacpp 2026.10.11549:
- It cannot be had without an HTTP server: an empty host list crashes the process, the default is an open port on
  loopback without a key, which anyone on the machine could use. Ours listens on a socket in a private directory
  that is gone as soon as the model is loaded, so that nobody can connect.
- A streaming callback that returns True, or raises (the exception is lost), ends the generation. During a prompt it
  is called once a batch, and only if the request says `return_progress`. With the default batch of 2,048 tokens a
  long prompt could not be stopped for 20 s; with 64 it takes at most 0.7 s, and prompts take a tenth longer.
- Freeing a model whose loop has not started yet waits for that loop forever, with the GIL held, so that everything
  stands still. A constructed server does not mean a started loop; an answer out of the loop does: we ask for metrics.
  Freeing always holds the GIL: 0.03 s, or up to the end of a running batch.
- A second thread makes it slower on a shared machine (19-51 tokens/s instead of 80).
- Verbosity -1 silences also the errors of llama.cpp; a failed load is a RuntimeError without its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from clew.adapters.models.embedded.errors import EngineLoadFailed, EngineMissing

BATCH_TOKENS = 64


class LoadedModel(Protocol):
    """What we use of `xllamacpp.Server`. The model is freed with the last reference."""

    def handle_chat_completions(self, prompt: bytes, callback: Callable[[bytes], bool], /) -> None:
        """Answer an OpenAI request, in JSON. Blocks without the GIL; `callback` is called in this thread with each
        chunk, or with an error object, and ends the generation by returning True.

        Raises: ValueError, RuntimeError for requests it cannot read or serve.
        """
        ...

    def handle_metrics(self) -> str:
        """Statistics, once the model's loop has come round to them."""
        ...


def load(weights: Path, *, alias: str, context_window: int) -> LoadedModel:
    """Load a gguf file, in 0.3-0.5 s for 98 MB; the chunks of its answers name the model `alias`.

    Raises: EngineMissing, EngineLoadFailed.
    """
    xllamacpp = library()
    if not weights.is_file():
        raise EngineLoadFailed(f"There are no weights at {weights}: `clew model pull {alias}` fetches them.")
    with tempfile.TemporaryDirectory(prefix="clew-") as directory:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(weights)
        parameters.model_alias = {alias}
        parameters.hostnames = [f"{directory}/unused.sock"]
        parameters.n_threads_http = 1
        parameters.ui = False
        parameters.endpoint_metrics = True
        parameters.verbosity = -1
        parameters.n_ctx = context_window
        parameters.fit_params = False
        parameters.n_parallel = 1
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.cpuparams.n_threads = 1
        parameters.cache_ram_mib = 0  # would keep up to 8 GB of earlier prompts
        try:
            model: LoadedModel = xllamacpp.Server(parameters)
            model.handle_metrics()
        except RuntimeError as error:
            raise EngineLoadFailed(
                f"The weights at {weights} could not be loaded: delete them and run `clew model pull {alias}`, "
                "unless memory is short."
            ) from error
    return model


def library() -> Any:
    """The module xllamacpp. Raises: EngineMissing."""
    try:
        import xllamacpp  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise EngineMissing(
            f"The embedded model needs an extra: `pip install clew[local]` installs it ({error})."
        ) from error
    return xllamacpp
