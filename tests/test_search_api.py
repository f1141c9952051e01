"""Search against a real STAC API: pgstac on PostGIS behind stac-fastapi."""

import json
from collections.abc import Iterator

import pytest

from coseis import catalogs
from coseis.addresses import AddressPolicy
from coseis.errors import InputRefusedError
from coseis.event import read_event
from coseis.search import SearchFilters, search_items
from stac_server import stac_server

pytestmark = [pytest.mark.slow, pytest.mark.integration]

COLLECTION = "mato-grosso"
# The real scenes of Mato Grosso were taken on 3-12 September 2020.
EVENT = read_event("2020-09-07T00:00:00Z", "-57.2,-13.4,-56.4,-12.4")
POLICY = AddressPolicy(allow_hosts=("storage.googleapis.com",))


@pytest.fixture(scope="module")
def mato_grosso(real_data) -> list[dict]:
    folder = real_data / "planet_stac" / "open-stac" / "education" / COLLECTION
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]


@pytest.fixture(scope="module")
def api(mato_grosso) -> Iterator[str]:
    """Address of a STAC API that holds the real scenes, and one item with start and end only."""
    mosaic = json.loads(json.dumps(mato_grosso[0])) | {"id": "mosaic"}
    mosaic["properties"] |= {
        "datetime": None,
        "start_datetime": "2020-09-06T00:00:00Z",
        "end_datetime": "2020-09-08T00:00:00Z",
    }
    collection = {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": COLLECTION,
        "description": "PlanetScope scenes",
        "license": "CC-BY-SA-4.0",
        "providers": [{"name": "Planet Labs PBC", "roles": ["licensor", "producer"]}],
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [],
    }
    with stac_server([collection], [*mato_grosso, mosaic]) as server:
        yield server.address


def test_the_api_and_a_file_of_the_same_items_give_the_same_scenes(api, mato_grosso, tmp_path):
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": mato_grosso}))
    from_api = search_items(api, EVENT, collections=[COLLECTION], bands=["nir", "red"], policy=POLICY)
    from_file = search_items(str(path), EVENT, bands=["nir", "red"], policy=POLICY)
    assert len(from_api.scenes) == len(mato_grosso)
    assert len(from_api.of_phase("pre")) == 6
    of_the_api = {"attribution": None, "licence": None, "reach": from_file.scenes[0].reach}
    assert [scene.model_copy(update=of_the_api) for scene in from_api.scenes] == list(from_file.scenes)
    assert from_api.coverage == pytest.approx(from_file.coverage)
    assert {scene.attribution for scene in from_api.scenes} == {"Planet Labs PBC"}
    assert {scene.licence for scene in from_api.scenes} == {"CC-BY-SA-4.0"}
    assert from_api.hosts == ("storage.googleapis.com",)


def test_straddling_item_of_an_api(api):
    (refused,) = search_items(api, EVENT, policy=POLICY).refused
    assert refused.item_id == "mosaic"
    assert "straddles the event" in refused.reason
    found = search_items(api, EVENT, policy=POLICY, filters=SearchFilters(include=("mosaic",)))
    assert "mosaic" in {scene.item_id for scene in found.of_phase("post")}


def test_pages_are_followed(api, monkeypatch):
    monkeypatch.setattr(catalogs, "PAGE_ITEMS", 2)
    found = search_items(api, EVENT, policy=POLICY)
    assert len(found.scenes) == 15


def test_windows_and_area_are_asked_of_the_server(api):
    event = read_event("2020-09-07T00:00:00Z", "-56.7,-13.11,-56.6,-13.0", pre="2020-09-03/2020-09-03")
    found = search_items(api, event, policy=POLICY)
    assert [scene.item_id for scene in found.of_phase("pre")] == ["20200903_141342_18_105d"]
    with pytest.raises(InputRefusedError, match=r"no scene after the event.*: 0 items seen"):
        search_items(api, read_event("2020-09-07T00:00:00Z", "10,10,11,11"), policy=POLICY)


def test_address_of_a_collection_searches_its_api(api):
    found = search_items(f"{api}/collections/{COLLECTION}", EVENT, policy=POLICY)
    assert len(found.scenes) == 15
    assert found.searched.startswith("all collections of")


def test_unknown_collection_of_an_api(api):
    with pytest.raises(InputRefusedError, match=r"no collection matogrosso; .*Did you mean mato-grosso\?"):
        search_items(api, EVENT, collections=["matogrosso"], policy=POLICY)


def test_asset_hosts_are_asked_for(api):
    with pytest.raises(InputRefusedError, match=r"--allow-host storage\.googleapis\.com"):
        search_items(api, EVENT)
