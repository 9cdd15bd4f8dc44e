"""One value: whether it fits its place, and how to say that it does not.

The annotation of the place is the whole truth about what fits, so what is said about it is made from it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from clew.config.errors import Misfit
from clew.config.lookup import leaf_at
from clew.config.schema import Leaf, Path, dotted
from clew.config.settings import SECRET_NAME, SECRET_VALUE

SHOWN_CHARACTERS_MAX = 60


def fit(path: Path, value: object) -> object:
    """The value as its place takes it. Raises Misfit, also where there is no such place.

    Nothing is converted but whole numbers: where a fraction is wanted, and in a list of texts (people's ids).
    """
    leaf = leaf_at(path)
    if isinstance(value, list):
        value = [str(item) if type(item) is int else item for item in value]
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError
        fitting: object = msgspec.convert(value, leaf.hint)
    except msgspec.ValidationError as error:
        raise Misfit(f"{dotted(path)} {_refusal(value, leaf.hint)}") from error
    return fitting


def fit_text(path: Path, text: str) -> object:
    """The value a text stands for, as in a variable or on the command line. Raises Misfit."""
    hint = leaf_at(path).hint
    bare, _ = _bare(hint)
    if text == "" and _is_optional(hint):
        return None
    if bare is bool:
        return fit(path, SWITCHES.get(text.strip().lower(), text))
    if bare in (int, float):
        return fit(path, _number(text))
    if get_origin(bare) is tuple:
        return fit(path, _list(text))
    return fit(path, text)


SWITCHES: Mapping[str, bool] = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def is_secret(leaf: Leaf) -> bool:
    """Whether the value may be a secret and must not be shown."""
    return any(meta.extra == SECRET_VALUE for meta in _bare(leaf.hint)[1])


def expected(hint: object) -> str:
    """What fits, as the end of a sentence."""
    bare, metas = _bare(hint)
    for meta in metas:
        if meta.description:
            return meta.description
    if get_origin(bare) is Literal:
        *most, last = (shown(choice) for choice in get_args(bare))
        return f"{', '.join(most)} or {last}"
    if get_origin(bare) is tuple:
        return "a list of texts"
    if bare is bool:
        return "true or false"
    if bare is str:
        return "a text"
    return f"a {'whole ' if bare is int else ''}number{_range(metas)}"


def shown(value: object) -> str:
    """A value as TOML writes it, shortened."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            text = msgspec.json.encode(value).decode()
            return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + '…"'
        case list() | tuple():
            return f"[{', '.join(shown(item) for item in value)}]"
        case _:
            return "a table" if isinstance(value, Mapping) else str(value)


def _refusal(value: object, hint: object) -> str:
    extra = next((meta.extra for meta in _bare(hint)[1] if meta.extra), None)
    if extra == SECRET_NAME:
        return f"is not {expected(hint)} (a secret itself belongs in secrets.toml)"
    if extra == SECRET_VALUE:
        return f"is not {expected(hint)}"
    return f"is {shown(value)}, but has to be {expected(hint)}"


def _bare(hint: object) -> tuple[object, tuple[Meta, ...]]:
    """An annotation without `None`, and what was said about it."""
    if _is_optional(hint):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Annotated:
        bare, *metas = get_args(hint)
        return bare, tuple(meta for meta in metas if isinstance(meta, Meta))
    return hint, ()


def _is_optional(hint: object) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _range(metas: tuple[Meta, ...]) -> str:
    for meta in metas:
        if meta.ge is not None and meta.le is not None:
            return f" from {meta.ge} to {meta.le}"
        if meta.gt is not None and meta.le is not None:
            return f" above {meta.gt} and at most {meta.le}"
        if meta.ge is not None:
            return f" of at least {meta.ge}"
    return ""


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _list(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return tomllib.loads(f"list = {text}")["list"]
    except tomllib.TOMLDecodeError:
        return text
