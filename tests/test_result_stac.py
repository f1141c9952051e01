"""The STAC documents of a run: valid against STAC's own schemas, linked, and each extension's rules kept.

The schemas of STAC itself come with pystac, those of its extensions lie on a server only: what they ask for
is checked here field by field, after their text, and by pystac's own readers of them.
"""

import json
import re
from datetime import UTC, datetime

import pystac
import pytest
import shapely
from obstore.store import LocalStore
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import DataType, RasterExtension, Sampling
from pystac.validation import validate_dict

from coseis.errors import InputRefusedError
from coseis.publish import OUTPUTS, probability_layout, status_layout
from coseis.result_stac import (
    COLLECTION,
    ITEM,
    MODEL_ITEM,
    RasterSummary,
    ResultSummary,
    model_name,
    write_stac,
)
from making import a_card

MAIN = {"epsg": 32654, "shape": (1280, 2048), "transform": (3.0, 0.0, 580000.0, 0.0, -3.0, 4735000.0)}
BESIDE = MAIN | {"epsg": 32655, "shape": (64, 32)}
PREFIXES = ("processing", "proj", "raster", "mlm")


def make_summary(**changes):
    layouts = {
        "probability": probability_layout(("landslide post", "landslide pre")),
        "status": status_layout(("post", "pre")),
    }
    rasters = [
        RasterSummary(name=f"{name}{suffix}.tif", layout=layout, **grid)
        for suffix, grid in (("", MAIN), ("_32655", BESIDE))
        for name, layout in layouts.items()
    ]
    fields = {
        "run_id": "coseis-0123456789ab",
        "event_time": datetime(2018, 9, 5, 18, 8, tzinfo=UTC),
        "start": datetime(2018, 8, 3, tzinfo=UTC),
        "end": datetime(2018, 9, 11, tzinfo=UTC),
        "footprint": shapely.geometry.mapping(shapely.box(142.0, 42.7, 142.1, 42.8)),
        "rasters": rasters,
        "card": a_card(threshold=0.56, training_sets=("Iburi 2018",)),
        "model_digest": "a" * 64,
        "window_px": 512,
        "threshold": 0.56,
        "software_version": "0.1.0",
        "grade": "delineation",
        "complete": True,
        "landslide_count": 369,
        "landslide_area_m2": 1.87e6,
        "attribution": ("A", "B"),
        "assets": (*OUTPUTS, "probability_32655.tif", "status_32655.tif"),
    }
    return ResultSummary.model_validate(fields | changes)


def written(folder, **changes):
    write_stac(make_summary(**changes), LocalStore(folder, mkdir=True))
    return {name: json.loads((folder / name).read_text()) for name in (ITEM, MODEL_ITEM, COLLECTION)}


@pytest.mark.parametrize("phases", [("post",), ("pre", "post")])
@pytest.mark.parametrize("attribution", [(), ("A",)])
def test_all_are_valid_stac(tmp_path, phases, attribution):
    for document in written(tmp_path, card=a_card(phases=phases), attribution=attribution).values():
        # No extensions: their schemas would be asked for over the network.
        assert validate_dict(document, extensions=[])
        assert document["stac_version"] == "1.1.0"


def test_what_is_not_valid_is_found(tmp_path):
    item = written(tmp_path)[ITEM]
    del item["properties"]["start_datetime"]
    with pytest.raises(pystac.STACValidationError):
        validate_dict(item, extensions=[])


def test_every_prefix_is_declared_where_it_is_used(tmp_path):
    for name, document in written(tmp_path).items():
        text = json.dumps(document)
        used = {prefix for prefix in PREFIXES if f'"{prefix}:' in text}
        names = [re.search(r"io/(\w+)/v", uri)[1] for uri in document["stac_extensions"]]
        declared = {{"projection": "proj"}.get(extension, extension) for extension in names}
        # The collection names that of its model's item too.
        assert used == declared - ({"mlm"} if name == COLLECTION else set())


def test_a_reader_walks_from_the_collection_and_back(tmp_path):
    documents = written(tmp_path)
    collection = pystac.Collection.from_file(str(tmp_path / COLLECTION))
    items = {item.id: item for item in collection.get_items()}
    assert set(items) == {"coseis-0123456789ab", "model-aaaaaaaaaaaa"}
    assert all(item.get_collection().id == collection.id for item in items.values())
    [derived] = items["coseis-0123456789ab"].get_links("derived_from")
    assert derived.get_absolute_href() == str(tmp_path / MODEL_ITEM)
    assert collection.extent.spatial.bboxes == [pytest.approx([142.0, 42.7, 142.1, 42.8])]
    assert [provider.name for provider in collection.providers] == ["coseis", "A", "B"]
    for document in documents.values():
        assert all(link["href"].startswith("./") for link in document["links"])


def test_the_map_reads_back_with_its_fields(tmp_path):
    item = pystac.Item.from_dict(written(tmp_path)[ITEM])
    assert item.datetime is None
    assert item.common_metadata.start_datetime == datetime(2018, 8, 3, tzinfo=UTC)
    assert item.common_metadata.end_datetime == datetime(2018, 9, 11, tzinfo=UTC)
    assert item.bbox == pytest.approx([142.0, 42.7, 142.1, 42.8])
    grid = ProjectionExtension.ext(item)
    assert (grid.code, grid.shape, grid.transform) == (
        "EPSG:32654",
        [1280, 2048],
        [3, 0, 580000.0, 0, -3, 4735000.0],
    )
    assert item.properties["coseis:event_time"] == "2018-09-05T18:08:00Z"
    assert item.properties["coseis:threshold"] == 0.56
    assert (item.properties["coseis:grade"], item.properties["coseis:complete"]) == ("delineation", True)
    assert item.properties["processing:software"] == {"coseis": "0.1.0"}
    assert item.properties["attribution"] == "A; B"
    assert set(item.assets) == {*OUTPUTS, "probability_32655.tif", "status_32655.tif"}
    cog = item.assets["probability.tif"]
    assert (cog.href, cog.media_type, cog.roles) == ("./probability.tif", pystac.MediaType.COG, ["data"])


def test_numbers_of_rasters_mean_what_the_extension_says(tmp_path):
    item = pystac.Item.from_dict(written(tmp_path)[ITEM])
    probability, status = (
        RasterExtension.ext(item.assets[name]).bands for name in ("probability.tif", "status.tif")
    )
    assert len(probability) == len(status) == 2
    band = probability[0]
    assert (band.data_type, band.sampling) == (DataType.UINT8, Sampling.AREA)
    assert (band.scale, band.offset, band.nodata) == (1 / 200, 0, 255)
    assert band.spatial_resolution == 3
    assert (status[0].scale, status[0].nodata) == (1, 0)
    names = [band["name"] for band in item.assets["probability.tif"].extra_fields["bands"]]
    assert names == ["landslide post", "landslide pre"]
    # A raster of another zone has a grid of its own.
    beside = ProjectionExtension.ext(item.assets["status_32655.tif"])
    assert (beside.code, beside.shape) == ("EPSG:32655", [64, 32])


@pytest.mark.parametrize("phases", [("post",), ("pre", "post")])
def test_the_model_keeps_the_rules_of_its_extension(tmp_path, phases):
    card = a_card(phases=phases, classes=("landslide", "old scar"), training_sets=("A", "B"))
    document = written(tmp_path, card=card)[MODEL_ITEM]
    item = pystac.Item.from_dict(document)
    model = MLMExtension.ext(item)
    assert model.mlm_name == "tiny"
    assert (model.architecture, model.framework, model.tasks) == ("U-Net", "Keras", ["semantic-segmentation"])
    assert model.total_parameters == card.parameters
    assert (model.pretrained, model.pretrained_source) == (True, "A; B")
    [given], [made] = model.input, model.output
    # Bands that are named are described by the asset that is the model.
    assert [band["name"] for band in document["assets"]["weights"]["raster:bands"]] == given.bands
    assert len(given.bands) == card.channels
    # Where bands are named the shape has a dimension of that name, and only there.
    assert given.input.shape[given.input.dim_order.index("bands")] == card.channels
    assert "bands" not in made.result.dim_order
    assert made.result.shape == [-1, 512, 512, 2]
    assert given.input.data_type == made.result.data_type == DataType.FLOAT32
    assert [entry.name for entry in made.classes] == ["landslide", "old-scar"]
    assert all(entry.value and entry.description for entry in made.classes)
    assert all(
        re.fullmatch(r"[0-9a-zA-Z_.-]+", name) for name in document["properties"]["mlm:hyperparameters"]
    )
    # One asset is the model, and only that says of what type.
    artifacts = {name: "mlm:artifact_type" in asset for name, asset in document["assets"].items()}
    roles = {name: "mlm:model" in asset["roles"] for name, asset in document["assets"].items()}
    assert artifacts == roles == {"weights": True, "card": False}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("coseis-rgb-16", "coseis-rgb-16"),
        ("<b>Café</b> 2", "b-Caf---b- 2"),
        ("7", "model-7"),
        ("滑坡", "model-unnamed"),
        ("a", "model-a"),
    ],
)
def test_any_name_becomes_one_that_is_allowed(name, plain):
    assert model_name(name) == plain
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", plain)


def test_the_collection_keeps_the_rules_of_its_extensions(tmp_path):
    document = written(tmp_path)[COLLECTION]
    # processing: at least one provider that is a producer or processor has its fields.
    [processor] = [provider for provider in document["providers"] if "processor" in provider["roles"]]
    assert processor["processing:software"] == {"coseis": "0.1.0"}
    # mlm takes every summary for an object, which lists of values are not.
    assert "summaries" not in document
    assert document["item_assets"]["probability.tif"]["raster:bands"][0]["scale"] == 1 / 200
    assert document["item_assets"]["probability.tif"]["proj:code"] == "EPSG:32654"


def test_an_asset_that_no_run_writes_is_refused(tmp_path):
    with pytest.raises(InputRefusedError, match=r"called notes\.txt; known: probability\.zarr"):
        written(tmp_path, assets=("notes.txt",))
    assert not list(tmp_path.iterdir())
