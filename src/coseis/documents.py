"""The bytes of a JSON document go in, its value comes out; one that would fill the memory is refused."""

import json
from typing import Any

MAX_JSON_BYTES = 2 * 2**30
"""Most memory that one document may take once it is parsed: 150,000 STAC items, 10 million vertices."""


def parse_json(body: bytes, *, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON document.

    Args:
        body: As it came.
        most_bytes: Most memory that the value may take, see `parsed_bytes`.

    Raises:
        ValueError: no JSON, too deep, or larger once it is parsed; the message says which.
    """
    if parsed_bytes(body) > most_bytes:
        raise ValueError(f"it would take {parsed_bytes(body) / 2**20:.0f} MiB, more than may be used here")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is no JSON: its values are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None


def parsed_bytes(body: bytes) -> int:
    """Memory that a document takes once it is parsed, from above by up to twice; nothing is parsed.

    Three bytes of text, `[],`, become an object of 64: the length alone says little. Measured on CPython 3.11
    with lists, objects, numbers, texts and coordinates of millions each.
    """
    # Text beyond ASCII is decoded to up to four bytes a letter, as a whole and once more in its strings.
    text = len(body) * (2 if body.isascii() else 8)
    containers = body.count(b"{") + body.count(b"[")
    return text + 72 * containers + 40 * body.count(b",") + 32 * body.count(b'"') + 100 * body.count(b":")
