"""The whole main job into an object store: a run on s3:// equals the same run in a folder."""

from concurrent.futures import ThreadPoolExecutor

import boto3
import geopandas as gpd
import numpy as np
import pytest

from coseis.catalogs import Query
from coseis.config import OutputConfig
from coseis.errors import InputRefusedError
from coseis.event import read_event
from coseis.objects import get_object, open_store, put_object, replace_object
from coseis.pipeline import finish_run
from coseis.plan import ITEMS, read_done, read_plan
from coseis.search import search_items
from coseis.store import open_arrays
from test_geoparquet import WORLD, YEARS, item, read, write
from test_pipeline import client, found, model, reference, run  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def test_run_on_s3_equals_run_in_a_folder(bucket, reference, run, client, tmp_path):  # noqa: F811
    out, _ = reference
    report = run(bucket, client)
    assert report.failed == ()
    store, local = open_store(bucket), open_store(str(out))
    plan = read_plan(get_object(store, ITEMS), bucket)
    here, there = open_arrays(str(out), plan.geobox), open_arrays(bucket, plan.geobox)
    for name in here:
        np.testing.assert_array_equal(here[name][:], there[name][:], err_msg=name)
    assert read_done(plan, store) == read_done(plan, local)
    path = tmp_path / "fetched.parquet"
    path.write_bytes(get_object(store, "landslides.parquet"))
    assert gpd.read_parquet(path).equals(gpd.read_parquet(out / "landslides.parquet"))
    names = {"run.json", "item.json", "landslides.pmtiles", "probability.tif", "status.tif", "map.png"}
    listed = {entry["path"] for page in store.list() for entry in page}
    assert names <= listed
    report = run(bucket, client, resume=True)
    assert report.throughput.chunks == 0


def test_parts_at_once_on_s3_make_one_plan(bucket, reference, run, client):  # noqa: F811
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda part: run(bucket, client, part=part), ("0/2", "1/2")))
    assert finish_run(OutputConfig(out=bucket), client=client).failed == ()
    plan = read_plan(get_object(open_store(bucket), ITEMS), bucket)
    assert {report.identity for report in reports} == {plan.identity.digest()}
    here, there = open_arrays(str(reference[0]), plan.geobox), open_arrays(bucket, plan.geobox)
    for name in here:
        np.testing.assert_array_equal(here[name][:], there[name][:], err_msg=name)


def test_of_several_that_replace_an_object_in_a_bucket_one_does(bucket):
    store = open_store(bucket)
    put_object(store, "plan", b"old")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: replace_object(store, "plan", b"old", f"{n}".encode()), range(4)))
    assert sum(made) == 1
    assert get_object(store, "plan") == f"{made.index(True)}".encode()


def test_a_stac_geoparquet_catalog_in_a_bucket(bucket, tmp_path):
    path = write(tmp_path / "items.parquet", [item("a", href="./a.tif"), item("b", days=900)])
    boto3.client("s3").upload_file(str(path), "maps", "catalogs/items.parquet")
    catalog = "s3://maps/catalogs/items.parquet"
    local, there = (read(address, Query((), WORLD, (YEARS,))) for address in (path, catalog))
    assert [record.item for record in there.records] == [record.item for record in local.records]
    event = read_event("2018-09-04T18:08:00Z", "142.1,42.1,142.9,42.9")
    scenes = search_items(catalog, event, allow_missing_pre=True).scenes
    assert [scene.sources[0].href for scene in scenes] == ["s3://maps/catalogs/a.tif"]
    for missing in ("s3://maps/none.parquet", "s3://nobucket/items.parquet"):
        with pytest.raises(InputRefusedError, match=r"cannot be read as stac-geoparquet|denies access"):
            read(missing)
