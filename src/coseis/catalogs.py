"""In: the address of a STAC API, a static catalog or a file of items. Out: its items as plain documents.

Static catalogs are walked here rather than by pystac, so that every link is checked before it is opened and
one bad link does not end the walk.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from coseis.addresses import (
    BUCKETS,
    PLANET_HOST,
    AddressPolicy,
    absolute_address,
    check_address,
    checked_session,
    host_of,
    is_remote,
    public_form,
)
from coseis.documents import Document, read_document, read_file
from coseis.errors import InputRefusedError, UnreachableError
from coseis.event import Refused, Window
from coseis.geoparquet import is_parquet, read_items
from coseis.stac_api import Ask, dicts, is_api, link_of, refuse_unknown, search_api

MAX_DOCUMENTS = 20_000
"""Most documents of one walk, and most items of one API search: more is a catalog to be narrowed."""
SEARCH_LIMIT_S = 1800
"""Longest that all documents of a search may take together."""
READ_THREADS = 8


class Record(NamedTuple):
    """One item as its catalog gives it."""

    item: Document
    address: str
    """Absolute address to which its relative hrefs belong."""
    collection: Document
    """Its collection's document, empty where the catalog has none."""


class Content(NamedTuple):
    """What a catalog gave."""

    records: list[Record]
    refused: list[Refused]
    """Links that could not be followed."""


class Query(NamedTuple):
    """What is asked of a catalog; a static one gives all items of the collections, whatever the rest says."""

    collections: Sequence[str]
    """Ids; empty: all."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    windows: Sequence[Window]


def catalog_address(catalog: str) -> str:
    """The absolute address of the catalog that the user named; a folder stands for its catalog.json.

    Raises:
        InputRefusedError: a scheme that catalogs are not read from.
    """
    scheme = urlsplit(catalog).scheme
    if scheme in ("http", "https") or (scheme in BUCKETS and is_parquet(catalog)):
        return catalog
    if "://" in catalog and scheme != "file":
        raise InputRefusedError(
            f"catalog {public_form(catalog)} starts with {scheme}://; expected http, https or a path; a "
            "stac-geoparquet file (.parquet) may lie in a bucket"
        )
    path = Path(urlsplit(catalog).path if scheme == "file" else catalog).expanduser().absolute()
    return str(path / "catalog.json" if path.is_dir() else path)


def read_catalog(address: str, query: Query, policy: AddressPolicy) -> Content:
    """Read the items of a STAC API, a static catalog or collection, an ItemCollection or a stac-geoparquet.

    Args:
        address: What `catalog_address` gave.
        query: Collections, area and dates.
        policy: Bound to the address; checks each link and each redirect.

    Raises:
        InputRefusedError: missing, no STAC, too large, access denied, or a collection that it does not have.
        UnreachableError: no answer; run again.
    """
    with checked_session(policy) as session:
        ask = _asking(address, policy, session)
        if is_parquet(address):
            return _read_table(check_address(address, policy), query, session)
        document = ask(address, None)
        _check_type(document, address)
        if document["type"] == "Collection" and is_remote(address):
            root = link_of(document, "root").get("href")
            above = absolute_address(str(root), address)
            if root and link_of(document, "items") and is_api(api := ask(above, None)):
                only = query._replace(collections=[str(document.get("id"))])
                return _search_api(above, api, only, ask)
        if is_api(document):
            return _search_api(address, document, query, ask)
        return _walk(address, document, query, ask)


def probe_catalog(catalog: str) -> str:
    """What kind of catalog answers there; of a catalog of documents only the first is read.

    Args:
        catalog: As the user names it.

    Raises:
        InputRefusedError, UnreachableError: as `read_catalog`.
    """
    address = catalog_address(catalog)
    policy = AddressPolicy(catalog=address)
    with checked_session(policy) as session:
        if is_parquet(address):
            before_satellites = (datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 2, tzinfo=UTC))
            nothing = Query((), (0.0, 0.0, 0.0, 0.0), (before_satellites,))
            _read_table(check_address(address, policy), nothing, session)
            return "stac-geoparquet"
        document = _asking(address, policy, session)(address, None)
    _check_type(document, address)
    return "STAC API" if is_api(document) else f"STAC {document['type']}"


def _asking(address: str, policy: AddressPolicy, session: requests.Session) -> Ask:
    """Reads the documents of one search: each address checked, all within SEARCH_LIMIT_S."""
    session.auth = _PlanetKey(host_of(address))
    until = time.monotonic() + SEARCH_LIMIT_S

    def ask(link: str, query: Document | None) -> Document:
        checked = check_address(link, policy)
        if time.monotonic() > until:
            raise UnreachableError(
                f"{public_form(address)} takes longer than {SEARCH_LIMIT_S} s; run again, or search less"
            )
        if is_remote(checked):
            return read_document(checked, session, until=until, query=query)
        return read_file(Path(checked))

    return ask


def _check_type(document: Document, address: str) -> None:
    if document.get("type") not in ("Catalog", "Collection", "Feature", "FeatureCollection"):
        raise InputRefusedError(
            f"{public_form(address)} is no STAC catalog: its type is {document.get('type')!r}; "
            "expected Catalog, Collection, Feature or FeatureCollection"
        )


def _read_table(address: str, query: Query, session: requests.Session) -> Content:
    table = read_items(
        address, session, collections=query.collections, bbox=query.bbox, windows=query.windows
    )
    missing = [name for name in query.collections if name not in table.known]
    if missing and not table.items:
        refuse_unknown(missing, sorted(table.known), public_form(address))
    _check_count(len(table.items), public_form(address))
    records = [
        Record(item, _self_address(item) or address, table.collections.get(str(item.get("collection")), {}))
        for item in table.items
    ]
    return Content(records, [])


class _PlanetKey(AuthBase):
    """Planet's key from the environment, sent to Planet's own API and to no other host of the catalog."""

    def __init__(self, host: str) -> None:
        self._key = os.environ.get("PL_API_KEY", "") if host == PLANET_HOST else ""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        if self._key and url.startswith("https://") and host_of(url) == PLANET_HOST:
            request.prepare_auth((self._key, ""))
        return request


def _search_api(address: str, root: Document, query: Query, ask: Ask) -> Content:
    records: dict[tuple[str, str], Record] = {}
    found = search_api(
        address, root, collections=query.collections, bbox=query.bbox, windows=query.windows, ask=ask
    )
    for item, collection in found:
        key = (str(item.get("collection") or ""), str(item.get("id")))
        records[key] = Record(item, _self_address(item) or address, collection)
        _check_count(len(records), public_form(address))
    return Content(list(records.values()), [])


def _check_count(count: int, shown: str) -> None:
    if count > MAX_DOCUMENTS:
        raise InputRefusedError(
            f"{shown} gives more than {MAX_DOCUMENTS} documents; narrow the search by --collection, --aoi, "
            "--pre and --post, or name the collection's own address"
        )


def _walk(address: str, document: Document, query: Query, ask: Ask) -> Content:
    """Breadth first, each level read by a few threads; the order is that of the links."""
    content = Content([], [])
    known: set[str] = set()
    seen = {address}
    level: list[tuple[str, Document, Document]] = [(address, document, {})]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while level:
            links: list[tuple[str, Document]] = []
            for place, node, parent in level:
                collection = node if node.get("type") == "Collection" else parent
                known.update(str(name) for name in _collection_ids(node))
                content.records.extend(_records(place, node, collection, query.collections))
                links.extend((link, collection) for link in _links(place, node, query.collections))
            links = [link for link in dict(links).items() if link[0] not in seen]
            seen.update(link for link, _ in links)
            _check_count(len(seen), public_form(address))
            level = []
            for (link, collection), answer in zip(
                links, pool.map(lambda link: _attempt(ask, link[0]), links), strict=True
            ):
                if isinstance(answer, InputRefusedError):
                    name = "/".join(public_form(link).split("/")[-2:])
                    content.refused.append(Refused(item_id=name, reason=f"link not followed: {answer}"))
                else:
                    level.append((link, answer, collection))
    missing = [name for name in query.collections if name not in known]
    if missing:
        refuse_unknown(missing, sorted(known), public_form(address))
    return content


def _attempt(ask: Ask, link: str) -> Document | InputRefusedError:
    try:
        return ask(link, None)
    except InputRefusedError as error:
        return error


def _collection_ids(node: Document) -> Iterator[Any]:
    if node.get("type") == "Collection":
        yield node.get("id")
    yield from (item["collection"] for item in _items(node) if item.get("collection"))


def _items(node: Document) -> list[Document]:
    return [node] if node.get("type") == "Feature" else dicts(node.get("features"))


def _records(place: str, node: Document, collection: Document, wanted: Sequence[str]) -> Iterator[Record]:
    for item in _items(node):
        own_document = item is node
        name = item.get("collection") or collection.get("id")
        if not wanted or name in wanted:
            yield Record(item, place if own_document else _self_address(item) or place, collection)


def _links(place: str, node: Document, wanted: Sequence[str]) -> Iterator[str]:
    """Addresses of the documents below: all children; the items unless their collection is not wanted."""
    rels = {"child"}
    if node.get("type") == "FeatureCollection":
        # A saved first page of a search is taken as it is; only a server is asked for the next one.
        rels = {"next"} if is_remote(place) else set()
    elif node.get("type") == "Catalog" or not wanted or node.get("id") in wanted:
        rels |= {"item", "items"}
    for link in dicts(node.get("links")):
        if link.get("rel") in rels and link.get("href") and link.get("method", "GET") == "GET":
            yield absolute_address(str(link["href"]), place)


def _self_address(item: Document) -> str | None:
    href = str(link_of(item, "self").get("href", ""))
    return href if "://" in href else None
