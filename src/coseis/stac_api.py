"""The root of a STAC API and what is asked of it go in; its items come out, each once, in its order.

The pages are followed here rather than by pystac-client, which never ends in a circle of next links, takes
what came before a broken page for nothing, and ends without a word at an empty page.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn
from urllib.parse import quote, urlencode

from coseis.addresses import absolute_address, public_form
from coseis.documents import BrokenDocumentError, Document, MissingDocumentError
from coseis.errors import InputRefusedError, UnreachableError
from coseis.event import Window

PAGE_ITEMS = 250
"""Items a page of a search; the most that Planet's gives."""
MAX_EMPTY_PAGES = 3
"""Empty pages in a row that are followed: some servers filter a page after it is cut, others never end."""
MAX_KNOWN_PAGES = 3
"""Pages in a row without a new item before the server is taken to go in a circle."""

Ask = Callable[[str, Document | None], Document]
"""Reads the document at an address, by POST if there is something to send."""


class Request(NamedTuple):
    """One page that is asked for."""

    address: str
    body: Document | None
    """Sent by POST; None: GET."""


def is_api(document: Document) -> bool:
    """Whether a document is the root of a STAC API that searches."""
    classes = document.get("conformsTo")
    return isinstance(classes, list) and any("item-search" in str(name) for name in classes)


def search_api(
    address: str,
    root: Document,
    *,
    collections: Sequence[str],
    bbox: tuple[float, float, float, float],
    windows: Sequence[Window],
    ask: Ask,
) -> Iterator[tuple[Document, Document]]:
    """The items of an API that touch a box and a window, with the document of their collection.

    An item that several windows give comes several times. A server may give more than it was asked for:
    items of other collections are left out here, those of other places and times by whoever reads them.

    Args:
        address: Of the root.
        root: Its document.
        collections: Ids; empty: all.
        bbox: West, south, east, north in degrees.
        windows: Start and end, each searched for itself.
        ask: Reads one document; it checks each address.

    Raises:
        InputRefusedError: no search, an unknown collection, a circle of pages, or no item collection.
        UnreachableError: a page cannot be had.
    """
    documents: dict[str, Document] = {}
    for name in collections:
        found = _collection(address, root, name, ask)
        if found is None:
            refuse_unknown([name], sorted(_collection_ids(address, root, ask)), public_form(address))
        documents[name] = found
    for window in windows:
        request = _search(address, root, collections, bbox, window)
        for item in _new_items(_pages(request, "features", ask), public_form(address)):
            name = str(item.get("collection") or "")
            if collections and name not in collections:
                continue
            if name and name not in documents:
                documents[name] = _collection(address, root, name, ask) or {}
            yield item, documents.get(name, {})


def refuse_unknown(missing: Sequence[str], known: Sequence[str], shown: str) -> NoReturn:
    """Raises InputRefusedError: collections that a catalog does not have, and the one that was meant."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(missing[0].casefold(), folded, n=1, cutoff=0.5)
    hint = f". Did you mean {folded[near[0]]}?" if near else ""
    raise InputRefusedError(
        f"{shown} has no collection {', '.join(missing)}; it has: {', '.join(sorted(known)) or 'none'}{hint}"
    )


def link_of(document: Document, rel: str) -> Document:
    """The first link of a kind that leads anywhere, empty if there is none."""
    links = (link for link in dicts(document.get("links")) if link.get("rel") == rel and link.get("href"))
    return next(links, {})


def dicts(listed: object) -> list[Document]:
    """The mappings of what should be a list of them."""
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _search(
    address: str,
    root: Document,
    collections: Sequence[str],
    bbox: tuple[float, float, float, float],
    window: Window,
) -> Request:
    """The first page: by POST where the API takes it, since a list of ids may be too long for an address."""
    links = [link for link in dicts(root.get("links")) if link.get("rel") == "search" and link.get("href")]
    if not links:
        raise InputRefusedError(f"{public_form(address)} is a STAC API that names no search of its own")
    post = next((link for link in links if link.get("method") == "POST"), None)
    place = absolute_address(str((post or links[0])["href"]), address)
    asked: Document = {"limit": PAGE_ITEMS, "bbox": list(bbox), "datetime": "/".join(map(_instant, window))}
    if collections:
        asked["collections"] = list(collections)
    if post:
        return Request(place, asked)
    words = {name: ",".join(map(str, v)) if isinstance(v, list) else v for name, v in asked.items()}
    return Request(f"{place}{'&' if '?' in place else '?'}{urlencode(words)}", None)


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _pages(request: Request | None, kind: str, ask: Ask) -> Iterator[list[Document]]:
    """What each page lists, in the order of the next links.

    Raises:
        InputRefusedError: a page that was read already comes next: the list would never end.
        UnreachableError: a page after the root is no JSON: a server that fails in the middle.
    """
    asked: set[str] = set()
    empty = 0
    while request and empty < MAX_EMPTY_PAGES:
        shown = public_form(request.address)
        mark = json.dumps(request, sort_keys=True, default=str)
        if mark in asked:
            _refuse_circle(f"{shown}: page {len(asked)} links to one before it as the next")
        asked.add(mark)
        try:
            page = ask(*request)
        except BrokenDocumentError as error:
            raise UnreachableError(f"{str(error).partition(';')[0]}; run again") from error
        if not isinstance(page.get(kind), list):
            raise InputRefusedError(
                f"{shown} does not answer as a STAC API does: page {len(asked)} has no list of {kind}"
            )
        entries = dicts(page[kind])
        empty = 0 if entries else empty + 1
        yield entries
        request = _next(page, request)


def _next(page: Document, request: Request) -> Request | None:
    link = link_of(page, "next")
    if not link:
        return None
    address = absolute_address(str(link["href"]), request.address)
    if str(link.get("method", "GET")).upper() != "POST":
        return Request(address, None)
    body = link.get("body")
    body = body if isinstance(body, dict) else {}
    return Request(address, {**(request.body or {}), **body} if link.get("merge") else body)


def _new_items(pages: Iterator[list[Document]], shown: str) -> Iterator[Document]:
    """Each item once, however often it is listed: pages shift when a server's list changes meanwhile."""
    seen: set[tuple[str, str]] = set()
    known = 0
    for entries in pages:
        before = len(seen)
        for item in entries:
            key = (str(item.get("collection") or ""), str(item.get("id")))
            if key not in seen:
                seen.add(key)
                yield item
        known = known + 1 if entries and len(seen) == before else 0
        if known >= MAX_KNOWN_PAGES:
            _refuse_circle(f"{shown}: {known} pages in a row list no new item")


def _refuse_circle(what: str) -> NoReturn:
    raise InputRefusedError(
        f"{what}; its list cannot be read to its end. Search other dates by --pre and --post, or a saved file"
    )


def _collections_address(address: str, root: Document) -> str:
    href = link_of(root, "data").get("href")
    return absolute_address(str(href), address) if href else f"{address.rstrip('/')}/collections"


def _collection(address: str, root: Document, name: str, ask: Ask) -> Document | None:
    """The document of one collection; None if the API has none of that name."""
    place, _, query = _collections_address(address, root).partition("?")
    try:
        found = ask(f"{place.rstrip('/')}/{quote(name, safe='')}{'?' if query else ''}{query}", None)
    except MissingDocumentError:
        return None
    except BrokenDocumentError as error:
        raise UnreachableError(f"{str(error).partition(';')[0]}; run again") from error
    return found


def _collection_ids(address: str, root: Document, ask: Ask) -> Iterator[str]:
    try:
        for entries in _pages(Request(_collections_address(address, root), None), "collections", ask):
            yield from (str(entry.get("id")) for entry in entries)
    except MissingDocumentError:
        return
