"""A STAC item as a stranger wrote it goes in; it comes out with every field of the type that STAC gives it.

What is of another type is left out, as if it were not there, so that no step after this has to ask. Text is
made one line without controls: ids and names go into messages, files and pages.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coseis.errors import InputRefusedError

Document = dict[str, Any]

MAX_ID = 256
MAX_TEXT = 1000
MAX_HREF = 8192
MAX_ENTRIES = 1000
"""Of a list, or of the assets: more are left out."""
MAX_NUMBER = 1e300
NAME_LETTERS = 200
MAX_NAMES = 20
"""Providers that are named, each with so many letters."""

_LISTS_OF_OBJECTS = frozenset(("eo:bands", "raster:bands", "bands", "providers"))
_LISTS_OF_TEXTS = frozenset(("roles",))
_KEPT = ("geometry", "bbox", "links")
"""Checked by those who read them."""


def clean_item(item: Mapping[str, Any]) -> Document:
    """The item with plain fields.

    Raises:
        InputRefusedError: it has no usable id: text of up to MAX_ID printable letters.
    """
    item_id = item.get("id")
    if not isinstance(item_id, str) or not 0 < len(item_id) <= MAX_ID or not item_id.isprintable():
        raise InputRefusedError(f"its id is no text of 1 to {MAX_ID} printable letters")
    cleaned = {name: item[name] for name in _KEPT if name in item}
    cleaned |= {"id": item_id, "properties": clean_fields(item.get("properties"))}
    if collection := clean_text(item.get("collection"), MAX_ID):
        cleaned["collection"] = collection
    assets = item.get("assets")
    if isinstance(assets, Mapping):
        listed = list(assets.items())[:MAX_ENTRIES]
        cleaned["assets"] = {
            clean_text(key, MAX_ID): _clean_asset(asset)
            for key, asset in listed
            if isinstance(asset, Mapping)
        }
    elif isinstance(assets, list):
        cleaned["assets"] = [name for name in assets[:MAX_ENTRIES] if isinstance(name, str)]
    return cleaned


def shown_id(item: Mapping[str, Any]) -> str:
    """An item's id for messages, whatever it is."""
    return clean_text(str(item.get("id"))[: 2 * MAX_ID], MAX_ID)


def clean_fields(fields: object) -> Document:
    """The fields of `properties`, an asset, a band or a collection that hold plain values."""
    if not isinstance(fields, Mapping):
        return {}
    cleaned: Document = {}
    for name, value in list(fields.items())[:MAX_ENTRIES]:
        if name in _LISTS_OF_OBJECTS:
            cleaned[name] = (
                [clean_fields(entry) for entry in value[:MAX_ENTRIES]] if isinstance(value, list) else []
            )
        elif name in _LISTS_OF_TEXTS:
            words = value[:MAX_ENTRIES] if isinstance(value, list) else []
            cleaned[name] = [clean_text(word) for word in words if isinstance(word, str)]
        elif isinstance(value, str):
            cleaned[name] = clean_text(value)
        elif value is None or isinstance(value, bool) or _is_number(value):
            cleaned[name] = value
    return cleaned


def clean_text(value: object, most: int = MAX_TEXT) -> str:
    """Text on one line, cut to so many letters, those that do not print replaced; empty of no text."""
    if not isinstance(value, str):
        return ""
    line = " ".join(value[:most].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def provider_names(providers: Sequence[Mapping[str, Any]] | None) -> str:
    """Who is to be named with an item, in a line."""
    names = [str(provider["name"])[:NAME_LETTERS] for provider in providers or () if provider.get("name")]
    return ", ".join(names[:MAX_NAMES])


def _clean_asset(asset: Mapping[str, Any]) -> Document:
    """An address is not mended: one that is no plain text is left out."""
    cleaned = clean_fields(asset)
    href = asset.get("href")
    cleaned.pop("href", None)
    if isinstance(href, str) and 0 < len(href) <= MAX_HREF and href.isprintable():
        cleaned["href"] = href
    return cleaned


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) < MAX_NUMBER
    return isinstance(value, float) and math.isfinite(value)
