"""Context windows of well-known model families, for servers whose model list does not tell.

Source: the makers' own entries in the genai-prices data set, version 0.2.3 (package `genai-prices`, itself compiled
from the providers' documentation), read in November 2026; where hosts of an open model differ, a figure most of them
give. Families, not versions: an entry must stay right, or too low, for the next release under the same name. A window
that is too low costs a compaction too early; one that is too high costs a refused request.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec


class KnownFamily(msgspec.Struct, frozen=True, kw_only=True):
    """`None` says nothing. `needs_alternation`: its chat template refuses two messages of one role in a row."""

    context_window: int
    takes_images: bool | None = None
    takes_effort: bool = False
    takes_audio: bool = False
    needs_alternation: bool = False


def _family(
    pattern: str,
    window: int,
    *,
    images: bool | None = None,
    alternation: bool = False,
    effort: bool = False,
    audio: bool = False,
) -> tuple[re.Pattern[str], KnownFamily]:
    family = KnownFamily(
        context_window=window,
        takes_images=images,
        needs_alternation=alternation,
        takes_effort=effort,
        takes_audio=audio,
    )
    return re.compile(rf"(?:^|[/:_. -])(?:{pattern})"), family


_FAMILIES: Final = (
    # OpenAI
    _family(r"gpt-oss", 131_072, images=False, effort=True),
    _family(r"gpt-[6-9]|gpt-5\.[4-9](?!-(mini|nano))", 1_000_000, effort=True),
    _family(r"gpt-5\.3(?!-codex)", 128_000, effort=True),
    _family(r"gpt-5", 400_000, effort=True),
    _family(r"gpt-4\.1", 1_000_000),
    _family(r"gpt-audio|gpt-4o(-mini)?-audio", 128_000, images=False, audio=True),
    _family(r"gpt-4o|chatgpt-4o|gpt-4-turbo|gpt-4-vision", 128_000),
    _family(r"gpt-4-32k", 32_000, images=False),
    _family(r"gpt-4", 8_192, images=False),
    _family(r"gpt-3\.5", 16_385, images=False),
    _family(r"o1-(mini|preview)", 128_000, images=False),
    _family(r"o[134](-|$)", 200_000, effort=True),
    # Anthropic
    _family(r"claude-(opus|sonnet)-4[.-][6-9]|claude-[a-z]+-[5-9]", 1_000_000),
    _family(r"claude", 200_000),
    # Google
    _family(r"gemini-pro(-vision)?$|gemini-1\.0", 32_768),
    _family(r"gemini-(2\.5|[3-9])", 1_000_000, effort=True, audio=True),
    _family(r"gemini", 1_000_000, audio=True),
    _family(r"gemma-?4", 131_072),
    _family(r"gemma-?3n", 32_768, alternation=True, audio=True),
    _family(r"gemma-?3(:|-)(270m|1b)", 32_768, images=False, alternation=True),
    _family(r"gemma-?3", 98_304, alternation=True),
    _family(r"gemma", 8_192, images=False, alternation=True),
    # Meta
    _family(r"muse-", 1_000_000),
    _family(r"(meta-)?llama-?4", 131_072),
    _family(r"(meta-)?llama-?3[._]2.*vision", 131_072),
    _family(r"(meta-)?llama-?3[._][1-3]", 131_072, images=False),
    _family(r"(meta-)?llama-?3", 8_192, images=False),
    _family(r"(meta-)?llama-?2|llama2", 4_096, images=False, alternation=True),
    # Qwen
    _family(r"qwen-?3[._p][5-9]", 131_072),
    _family(r"qwen-?3-(coder|next|vl)|qwen-?3.*-2507", 131_072),
    _family(r"qwen-?3", 32_768, images=False),
    _family(r"qwen-?2[._]5-?vl", 32_768),
    _family(r"qwen-?2|qwq", 32_768, images=False),
    # Mistral
    _family(r"codestral|devstral|mistral-large-(2512|[3-9])|mistral-medium-3-5|mistral-small-26", 256_000),
    _family(r"ministral|magistral|mistral-(small-?3|small-2[56]|medium|large)|pixtral", 128_000),
    _family(r"mistral-nemo", 60_288, images=False, alternation=True),
    _family(r"mi[sx]tral", 32_000, images=False, alternation=True),
    # Others
    _family(r"deepseek-v?[4-9]|deepseek-flash", 1_000_000, images=False),
    _family(r"deepseek-v3\.[1-9]", 128_000, images=False),
    _family(r"deepseek-r1-distill", 32_768, images=False),
    _family(r"deepseek", 64_000, images=False),
    _family(r"kimi-k[3-9]", 1_000_000),
    _family(r"kimi-k2(-instruct)?$|kimi-k2-0711", 131_072, images=False),
    _family(r"kimi", 256_000),
    _family(r"glm-5\.[2-9]|glm-[6-9]", 1_000_000),
    _family(r"glm-4\.6v", 128_000),
    _family(r"glm-(4\.[67]|5)", 200_000),
    _family(r"glm-4\.5v", 65_536),
    _family(r"glm-4\.5", 128_000, images=False),
    _family(r"grok-4\.[34]", 1_000_000),
    _family(r"grok-4\.[5-9]", 500_000),
    _family(r"grok-[4-9]|grok-(code|build)", 256_000),
    _family(r"grok-3-mini", 131_072, images=False, effort=True),
    _family(r"grok-3", 131_072, images=False),
    _family(r"minimax-m3", 512_000),
    _family(r"minimax", 196_000, images=False),
    _family(r"nemotron-3", 256_000),
    _family(r"command-a", 192_000),
    _family(r"command-r", 128_000, images=False),
    _family(r"phi-?4-(mini|multimodal)", 131_072),
    _family(r"phi-?4", 16_384, images=False),
    _family(r"granite-?4", 131_000, images=False),
    _family(r"smollm2", 8_192, images=False),
)


def known_family(model: str) -> KnownFamily | None:
    """What is known of a model by its name alone, with or without maker, tag or quantisation around it."""
    name = model.lower().replace("_", "-")
    return next((family for pattern, family in _FAMILIES if pattern.search(name)), None)
