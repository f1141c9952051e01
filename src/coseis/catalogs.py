"""In: the address of a STAC API, a static catalog or a file of items. Out: its items as plain documents.

Static catalogs are walked here rather than by pystac, so that every link is checked before it is opened and
one bad link does not end the walk.
"""

import difflib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests.auth import AuthBase

from coseis.addresses import (
    BUCKETS,
    AddressPolicy,
    absolute_address,
    check_address,
    checked_session,
    host_of,
    is_remote,
    public_form,
    unanswered,
)
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.event import Refused, Window
from coseis.geoparquet import is_parquet, read_items

MAX_DOCUMENTS = 20_000
"""Most documents of one walk, and most items of one API search: more is a catalog to be narrowed."""
MAX_DOCUMENT_BYTES = 256 * 2**20
PAGE_ITEMS = 250
"""Items a page of an API search; the most that Planet's gives."""
READ_THREADS = 8
PLANET_HOST = "api.planet.com"

Document = dict[str, Any]
_Reader = Callable[[str], Document]


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

        def read(link: str) -> Document:
            checked = check_address(link, policy)
            return _read_remote(checked, session) if is_remote(checked) else _read_file(Path(checked))

        if is_parquet(address):
            return _read_table(check_address(address, policy), query, session)
        document = read(address)
        if document.get("type") not in ("Catalog", "Collection", "Feature", "FeatureCollection"):
            raise InputRefusedError(
                f"{public_form(address)} is no STAC catalog: its type is {document.get('type')!r}; "
                "expected Catalog, Collection, Feature or FeatureCollection"
            )
        if document["type"] == "Collection" and is_remote(address):
            root = _link(document, "root")
            if root and _link(document, "items") and _is_api(above := read(absolute_address(root, address))):
                only = query._replace(collections=[str(document.get("id"))])
                return _search_api(absolute_address(root, address), above, only, session)
        if _is_api(document):
            return _search_api(address, document, query, session)
        return _walk(address, document, query, read)


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


def _read_file(path: Path) -> Document:
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise InputRefusedError(f"{path} cannot be read ({error.strerror})") from error


def _read_remote(address: str, session: requests.Session) -> Document:
    shown = public_form(address)
    body = bytearray()
    try:
        with session.get(address, headers={"Accept": "application/json, */*;q=0.5"}, stream=True) as response:
            _check_status(response.status_code, shown)
            for part in response.iter_content(2**20):
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise InputRefusedError(f"{shown} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
            return _parse(bytes(body), f"{shown} ({response.headers.get('Content-Type', 'no content type')})")
    except requests.RequestException as error:
        raise unanswered(address, error) from error


def _parse(body: bytes, shown: str) -> Document:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputRefusedError(
            f"{shown} is not JSON; expected a STAC API, catalog, collection or item file"
        ) from error
    if not isinstance(document, dict):
        raise InputRefusedError(f"{shown} holds a JSON {type(document).__name__}; expected a STAC document")
    return document


def _check_status(status: int | None, shown: str) -> None:
    if status in (401, 403):
        key = "; set PL_API_KEY to your key" if PLANET_HOST in shown else ""
        raise InputRefusedError(f"{shown} denies access (HTTP {status}){key}")
    if status is not None and 400 <= status < 500:
        raise InputRefusedError(f"{shown} answers HTTP {status}; is the address right?")
    if status is not None and status >= 500:
        raise UnreachableError(f"{shown} answers HTTP {status}; run again")


def _is_api(document: Document) -> bool:
    classes = document.get("conformsTo")
    return isinstance(classes, list) and any("item-search" in str(name) for name in classes)


def _search_api(address: str, root: Document, query: Query, session: requests.Session) -> Content:
    shown = public_form(address)
    # Its own retries are off: the session has them, with the check of each hop.
    stac_io = StacApiIO(max_retries=None)
    stac_io.session = session
    methods = {link.get("method", "GET") for link in _dicts(root.get("links")) if link.get("rel") == "search"}
    try:
        client = Client.open(address, stac_io=stac_io)
        _check_collections_api(client, query.collections, shown)
        collections: dict[str, Document] = {}
        records: dict[tuple[str, str], Record] = {}
        for window in query.windows:
            search = client.search(
                method="POST" if "POST" in methods else "GET",
                collections=list(query.collections) or None,
                bbox=list(query.bbox),
                datetime=list(window),
                limit=PAGE_ITEMS,
                max_items=MAX_DOCUMENTS + 1,
            )
            for item in search.items_as_dicts():
                name = str(item.get("collection") or "")
                if name and name not in collections:
                    found = client.get_collection(name)
                    collections[name] = found.to_dict(transform_hrefs=False) if found else {}
                base = _self_address(item) or address
                records[name, str(item.get("id"))] = Record(item, base, collections.get(name, {}))
                _check_count(len(records), shown)
    except APIError as error:
        if isinstance(error.__context__, CoseisError):
            raise error.__context__ from error
        _check_status(getattr(error, "status_code", None), shown)
        raise unanswered(address, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefusedError(f"{shown} does not answer as a STAC API does ({error})") from error
    return Content(list(records.values()), [])


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


def _walk(address: str, document: Document, query: Query, read: _Reader) -> Content:
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
                links, pool.map(lambda link: _attempt(read, link[0]), links), strict=True
            ):
                if isinstance(answer, InputRefusedError):
                    name = "/".join(public_form(link).split("/")[-2:])
                    content.refused.append(Refused(item_id=name, reason=f"link not followed: {answer}"))
                else:
                    level.append((link, answer, collection))
    missing = [name for name in query.collections if name not in known]
    if missing:
        _refuse_unknown(missing, sorted(known), public_form(address))
    return content


def _attempt(read: _Reader, link: str) -> Document | InputRefusedError:
    try:
        return read(link)
    except InputRefusedError as error:
        return error


def _collection_ids(node: Document) -> Iterator[Any]:
    if node.get("type") == "Collection":
        yield node.get("id")
    yield from (item["collection"] for item in _items(node) if item.get("collection"))


def _items(node: Document) -> list[Document]:
    return [node] if node.get("type") == "Feature" else _dicts(node.get("features"))


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
    for link in _dicts(node.get("links")):
        if link.get("rel") in rels and link.get("href") and link.get("method", "GET") == "GET":
            yield absolute_address(str(link["href"]), place)


def _self_address(item: Document) -> str | None:
    href = _link(item, "self")
    return href if "://" in href else None


def _link(document: Document, rel: str) -> str:
    """Href of the first link of a kind, empty if there is none."""
    links = _dicts(document.get("links"))
    return next((str(link["href"]) for link in links if link.get("rel") == rel and link.get("href")), "")


def _dicts(listed: object) -> list[Document]:
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
