"""In: the address of a STAC API, a static catalog or a file of items. Out: its items as plain documents.

Static catalogs are walked here rather than by pystac, so that every link is checked before it is opened and
one bad link does not end the walk.
"""

import difflib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
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
from coseis.errors import CoseisError, InputRefusedError
from coseis.event import Refused, Window
from coseis.geoparquet import is_parquet, read_items
from coseis.items import MAX_ID, Document, clean_text
from coseis.stac_io import CheckedStacIO, DocumentReader, TooMuchError, dicts

MAX_DOCUMENTS = 20_000
"""Most documents of one walk, and most items of one search: more is a catalog to be narrowed."""
REASON_LETTERS = 200
"""Of what a library says of an answer: it may quote it."""
PAGE_ITEMS = 250
"""Items a page of an API search; the most that Planet's gives."""
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
        session.auth = _PlanetKey(host_of(address))
        if is_parquet(address):
            return _read_table(check_address(address, policy), query, session)
        reader = DocumentReader(session, policy)
        document = _first(reader, address)
        if document["type"] == "Collection" and is_remote(address):
            root = _link(document, "root")
            if (
                root
                and _link(document, "items")
                and _is_api(above := reader.read(absolute_address(root, address)))
            ):
                only = query._replace(collections=[str(document.get("id"))])
                return _search_api(absolute_address(root, address), above, only, reader)
        if _is_api(document):
            return _search_api(address, document, query, reader)
        return _walk(address, document, query, reader)


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
        session.auth = _PlanetKey(host_of(address))
        if is_parquet(address):
            before_satellites = (datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 2, tzinfo=UTC))
            nothing = Query((), (0.0, 0.0, 0.0, 0.0), (before_satellites,))
            _read_table(check_address(address, policy), nothing, session)
            return "stac-geoparquet"
        document = _first(DocumentReader(session, policy), address)
    return "STAC API" if _is_api(document) else f"STAC {document['type']}"


def _read_table(address: str, query: Query, session: requests.Session) -> Content:
    table = read_items(
        address, session, collections=query.collections, bbox=query.bbox, windows=query.windows
    )
    missing = [name for name in query.collections if name not in table.known]
    if missing and not table.items:
        _refuse_unknown(missing, sorted(table.known), public_form(address))
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


def _first(reader: DocumentReader, address: str) -> Document:
    """The document that the user named."""
    document = reader.read(address)
    if document.get("type") not in ("Catalog", "Collection", "Feature", "FeatureCollection"):
        raise InputRefusedError(
            f"{public_form(address)} is no STAC catalog: its type is {repr(document.get('type'))[:40]}; "
            "expected Catalog, Collection, Feature or FeatureCollection"
        )
    return document


def _is_api(document: Document) -> bool:
    classes = document.get("conformsTo")
    return isinstance(classes, list) and any("item-search" in str(name) for name in classes)


def _search_api(address: str, root: Document, query: Query, reader: DocumentReader) -> Content:
    shown = public_form(address)
    methods = {
        str(link.get("method", "GET")) for link in dicts(root.get("links")) if link.get("rel") == "search"
    }
    try:
        # What pystac-client warns of is no fault of the user's, and what is amiss is raised here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = _ask(address, query, reader, "POST" if "POST" in methods else "GET")
    except APIError as error:
        raise InputRefusedError(str(error)) from error
    except CoseisError:
        raise
    # pystac takes an answer for what it should be: one that is not ends in any kind of exception.
    except Exception as error:
        reason = clean_text(public_form(str(error)), REASON_LETTERS)
        raise InputRefusedError(
            f"{shown} does not answer as a STAC API does ({type(error).__name__}: {reason})"
        ) from error
    return Content(records, [])


def _ask(address: str, query: Query, reader: DocumentReader, method: str) -> list[Record]:
    """The items of all windows, each once."""
    client = Client.open(address, stac_io=CheckedStacIO(reader))
    _check_collections_api(client, query.collections, public_form(address))
    collections: dict[str, Document] = {}
    records: dict[tuple[str, str], Record] = {}
    for window in query.windows:
        search = client.search(
            method=method,
            collections=list(query.collections) or None,
            bbox=list(query.bbox),
            datetime=list(window),
            limit=PAGE_ITEMS,
            max_items=MAX_DOCUMENTS + 1,
        )
        for item in search.items_as_dicts():
            name = str(item.get("collection") or "")
            if query.collections and name not in query.collections:
                continue  # A server may give more than it was asked for.
            if name and name not in collections:
                found = client.get_collection(name)
                collections[name] = found.to_dict(transform_hrefs=False) if found else {}
            base = _self_address(item) or address
            records[name, str(item.get("id"))] = Record(item, base, collections.get(name, {}))
            _check_count(len(records), public_form(address))
    return list(records.values())


def _check_collections_api(client: Client, wanted: Sequence[str], shown: str) -> None:
    missing = [name for name in wanted if client.get_collection(name) is None]
    if missing:
        _refuse_unknown(missing, [collection.id for collection in client.get_collections()], shown)


def _refuse_unknown(missing: Sequence[str], known: Sequence[str], shown: str) -> None:
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(missing[0].casefold(), folded, n=1, cutoff=0.5)
    hint = f". Did you mean {folded[near[0]]}?" if near else ""
    raise InputRefusedError(
        f"{shown} has no collection {', '.join(missing)}; it has: {', '.join(sorted(known)) or 'none'}{hint}"
    )


def _check_count(count: int, shown: str) -> None:
    if count > MAX_DOCUMENTS:
        raise InputRefusedError(
            f"{shown} gives more than {MAX_DOCUMENTS} documents; narrow the search by --collection, --aoi, "
            "--pre and --post, or name the collection's own address"
        )


def _walk(address: str, document: Document, query: Query, reader: DocumentReader) -> Content:
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
                for link in _links(place, node, query.collections):
                    try:
                        links.append((absolute_address(link, place), collection))
                    except InputRefusedError as error:
                        content.refused.append(_not_followed(link, error))
            links = [link for link in dict(links).items() if link[0] not in seen]
            seen.update(link for link, _ in links)
            _check_count(len(seen), public_form(address))
            level = []
            for (link, collection), answer in zip(
                links, pool.map(lambda link: _attempt(reader, link[0]), links), strict=True
            ):
                if isinstance(answer, InputRefusedError):
                    content.refused.append(_not_followed(link, answer))
                else:
                    level.append((link, answer, collection))
    missing = [name for name in query.collections if name not in known]
    if missing:
        _refuse_unknown(missing, sorted(known), public_form(address))
    return content


def _attempt(reader: DocumentReader, link: str) -> Document | InputRefusedError:
    try:
        return reader.read(link)
    except TooMuchError:
        raise
    except InputRefusedError as error:
        return error


def _not_followed(link: str, error: InputRefusedError) -> Refused:
    name = "/".join(public_form(link).split("/")[-2:])
    return Refused(item_id=clean_text(name, MAX_ID), reason=f"link not followed: {error}")


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
    """Hrefs of the documents below: all children; the items unless their collection is not wanted."""
    rels = {"child"}
    if node.get("type") == "FeatureCollection":
        # A saved first page of a search is taken as it is; only a server is asked for the next one.
        rels = {"next"} if is_remote(place) else set()
    elif node.get("type") == "Catalog" or not wanted or node.get("id") in wanted:
        rels |= {"item", "items"}
    for link in dicts(node.get("links")):
        if str(link.get("rel")) in rels and link.get("href") and link.get("method", "GET") == "GET":
            yield str(link["href"])


def _self_address(item: Document) -> str | None:
    href = _link(item, "self")
    return href if "://" in href else None


def _link(document: Document, rel: str) -> str:
    """Href of the first link of a kind, empty if there is none."""
    links = dicts(document.get("links"))
    return next((str(link["href"]) for link in links if link.get("rel") == rel and link.get("href")), "")
