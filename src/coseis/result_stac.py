"""What a run made goes in; a STAC collection with an item of the map and one of its model comes out.

The collection lies beside both, all linked to each other by relative addresses, so that a folder of a bucket
is a catalog. Extensions: processing and projection of the map, raster of its bands, mlm of the model.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import pystac
import shapely
from obstore.store import ObjectStore
from pydantic import AwareDatetime
from pystac.extensions.projection import ProjectionExtension

from coseis.card import ModelCard
from coseis.errors import InputRefusedError
from coseis.grid import epsg_of
from coseis.plan import MODEL, Plan
from coseis.publish import OUTPUTS, RasterLayout, output_of, probability_layout, status_layout, upload
from coseis.types import Value

ITEM, MODEL_ITEM, COLLECTION = "item.json", "model.json", "collection.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
LINEAGE = "Landslides mapped by a neural network in satellite scenes from before and after an earthquake"
PROJECT = "coseis"
TASKS = ["semantic-segmentation"]
GEOJSON, JSON = pystac.MediaType.GEOJSON.value, pystac.MediaType.JSON.value


class RasterSummary(Value):
    """One GeoTIFF of a run and its grid."""

    name: str
    layout: RasterLayout
    epsg: int
    shape: tuple[int, int]
    """Height and width, px."""
    transform: tuple[float, ...]
    """Affine coefficients, a to f."""


class ResultSummary(Value):
    """What the STAC documents say of a run."""

    run_id: str
    event_time: AwareDatetime
    start: AwareDatetime
    end: AwareDatetime
    """First and last acquisition among the scenes used."""
    footprint: dict[str, Any]
    """GeoJSON geometry of the mapped area, longitude and latitude."""
    rasters: tuple[RasterSummary, ...]
    """Those of the largest UTM zone first: its grid is the item's."""
    card: ModelCard
    model_digest: str
    window_px: int
    """Side of what the network saw at once."""
    threshold: float
    software_version: str
    grade: str
    complete: bool
    """Of the product, see `grades.Product`."""
    landslide_count: int
    landslide_area_m2: float
    attribution: tuple[str, ...] = ()
    """Who must be named with the map: the providers of the scenes."""
    assets: tuple[str, ...]
    """Keys of the outputs that this run wrote, see OUTPUTS."""

    @property
    def collection_id(self) -> str:
        """Another one for each run."""
        return f"landslides-{self.event_time:%Y%m%d}-{self.run_id}"

    @property
    def processing(self) -> dict[str, Any]:
        """How the map was made, in the fields of the extension."""
        software = {PROJECT: self.software_version}
        return {"processing:software": software, "processing:lineage": LINEAGE, "processing:level": "L4"}


def zone_suffix(plan: Plan, zone: Plan) -> str:
    """What the names of a zone's rasters end in: nothing for the largest, then its EPSG code."""
    return "" if zone.geobox == plan.geobox else f"_{epsg_of(zone.geobox)}"


def raster_summaries(plan: Plan) -> tuple[RasterSummary, ...]:
    """probability.tif and status.tif of every zone of a run; the post phase is their first band."""
    phases = sorted(plan.identity.phases, key=lambda phase: phase != "post")
    layouts = {
        "probability": probability_layout(
            tuple(f"{name} {phase}" for phase in phases for name in plan.card.classes)
        ),
        "status": status_layout(tuple(phases)),
    }
    return tuple(
        RasterSummary(
            name=f"{name}{zone_suffix(plan, zone)}.tif",
            layout=layout,
            epsg=epsg_of(zone.geobox),
            shape=zone.identity.shape,
            transform=zone.identity.transform,
        )
        for zone in plan.zones
        for name, layout in layouts.items()
    )


def write_stac(summary: ResultSummary, store: ObjectStore) -> None:
    """Writes item.json, model.json and collection.json, which link each other and name the run's files.

    Args:
        summary: What they say; its `assets` are keys of OUTPUTS.
        store: Where they go, the folder of the assets.

    Raises:
        InputRefusedError: an asset is not one of OUTPUTS, or the store refuses a file.
        UnreachableError: the store does not answer.
    """
    unknown = [name for name in summary.assets if output_of(name) is None]
    if unknown:
        raise InputRefusedError(
            f"no output of a run is called {', '.join(unknown)}; known: {', '.join(OUTPUTS)}"
        )
    documents = {
        ITEM: _item(summary),
        MODEL_ITEM: _model_item(summary),
        # Last: who finds it finds what it links.
        COLLECTION: _collection(summary),
    }
    for key, document in documents.items():
        upload(json.dumps(document, indent=2).encode(), store, key)


def _item(summary: ResultSummary) -> dict[str, Any]:
    """The map."""
    item = _dated(summary, summary.run_id)
    item.stac_extensions = [PROCESSING, RASTER]
    item.properties |= {
        "title": f"Landslides of the earthquake of {summary.event_time:%Y-%m-%d %H:%M} UTC",
        "coseis:event_time": pystac.utils.datetime_to_str(summary.event_time),
        "coseis:model": summary.card.name,
        "coseis:model_digest": summary.model_digest,
        "coseis:threshold": summary.threshold,
        "coseis:grade": summary.grade,
        "coseis:complete": summary.complete,
        "coseis:landslide_count": summary.landslide_count,
        "coseis:landslide_area_m2": summary.landslide_area_m2,
        **summary.processing,
    }
    if summary.attribution:
        item.properties["attribution"] = "; ".join(summary.attribution)
    main = summary.rasters[0]
    grid = ProjectionExtension.ext(item, add_if_missing=True)
    grid.apply(code=f"EPSG:{main.epsg}", shape=list(main.shape), transform=list(main.transform))
    rasters = {raster.name: raster for raster in summary.rasters}
    for name in summary.assets:
        if output := output_of(name):
            more = _raster_fields(rasters[name]) if name in rasters else {}
            asset = pystac.Asset(
                f"./{name}", output.title, media_type=output.media_type, roles=[output.role],
                extra_fields=more,
            )  # fmt: skip
            item.add_asset(name, asset)
    derived = _link("derived_from", MODEL_ITEM, GEOJSON, "The model that drew it")
    return _linked(item, summary, [derived])


def _raster_fields(raster: RasterSummary) -> dict[str, Any]:
    """Of an asset: what its numbers mean, and its own grid."""
    layout = raster.layout
    band = {
        "data_type": layout.dtype,
        "nodata": layout.nodata,
        "scale": layout.scale,
        "offset": 0,
        "sampling": "area",
        "spatial_resolution": abs(raster.transform[0]),
    }
    return {
        "bands": [{"name": name} for name in layout.bands],
        "raster:bands": [band for _ in layout.bands],
        "proj:code": f"EPSG:{raster.epsg}",
        "proj:shape": list(raster.shape),
        "proj:transform": list(raster.transform),
    }


def _model_item(summary: ResultSummary) -> dict[str, Any]:
    """The network that drew the map, as it lies with the run."""
    card = summary.card
    item = _dated(summary, f"model-{summary.model_digest[:12] or 'unnamed'}")
    item.stac_extensions = [RASTER, MLM]
    bands = [f"{phase} {band}" for phase in card.phases for band in card.bands]
    bands = bands if len(card.phases) > 1 else list(card.bands)
    side_px = summary.window_px
    item.properties |= {
        "title": f"Model {card.name}",
        "license": card.licence,
        "coseis:model_digest": summary.model_digest,
        "mlm:name": model_name(card.name),
        "mlm:architecture": "U-Net",
        "mlm:framework": "Keras",
        "mlm:tasks": TASKS,
        "mlm:total_parameters": card.parameters,
        "mlm:pretrained": True,
        "mlm:hyperparameters": {
            "threshold": card.threshold, "base_filters": card.base_filters, "padding": card.padding,
        },
        "mlm:input": [
            {
                "name": "scenes",
                "bands": bands,
                "input": {
                    "shape": [-1, side_px, side_px, len(bands)],
                    "dim_order": ["batch", "height", "width", "bands"],
                    "data_type": "float32",
                },
                "description": f"Normalization {card.normalization.kind}, see card.json; missing pixels are "
                f"{card.fill:g}",
            }
        ],
        "mlm:output": [
            {
                "name": "probability",
                "tasks": TASKS,
                "result": {
                    "shape": [-1, side_px, side_px, len(card.classes)],
                    "dim_order": ["batch", "height", "width", "class"],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": number, "name": re.sub(r"[^0-9A-Za-z_-]", "-", name), "description": name}
                    for number, name in enumerate(card.classes, 1)
                ],
            }
        ],
    }  # fmt: skip
    if card.training_sets:
        item.properties["mlm:pretrained_source"] = "; ".join(card.training_sets)
    weights = {
        "mlm:artifact_type": "coseis.model.save_model",
        # What the network sees: mlm looks for it here, for STAC 1.1 has no bands of an item alone.
        "raster:bands": [{"name": band, "data_type": "float32"} for band in bands],
    }
    item.add_asset(
        "weights", pystac.Asset(f"./{MODEL}/weights.h5", "Weights", media_type=pystac.MediaType.HDF5.value,
                                roles=["mlm:model", "mlm:weights"], extra_fields=weights)
    )  # fmt: skip
    item.add_asset(
        "card", pystac.Asset(f"./{MODEL}/card.json", "Model card", media_type=JSON, roles=["metadata"])
    )
    return _linked(item, summary, [])


def model_name(name: str) -> str:
    """A model's name in the letters that the extension allows, a letter first."""
    plain = re.sub(r"[^a-zA-Z0-9_.\s-]", "-", name).strip(" -_.")
    return plain if re.match(r"[a-zA-Z].+", plain) else f"model-{plain or 'unnamed'}"


def _collection(summary: ResultSummary) -> dict[str, Any]:
    """Both, and what they have in common."""
    west, south, east, north = shapely.geometry.shape(summary.footprint).bounds
    interval = [summary.start, summary.end]
    extent = pystac.Extent(
        pystac.SpatialExtent([[west, south, east, north]]), pystac.TemporalExtent([interval])
    )
    providers = [
        pystac.Provider(PROJECT, roles=[pystac.ProviderRole.PROCESSOR], extra_fields=summary.processing)
    ]
    providers += [pystac.Provider(name, roles=[pystac.ProviderRole.PRODUCER]) for name in summary.attribution]
    collection = pystac.Collection(
        id=summary.collection_id,
        title=f"Landslides of the earthquake of {summary.event_time:%Y-%m-%d %H:%M} UTC",
        description=f"{LINEAGE}: the inventory, the rasters that it was drawn from, and the model.",
        extent=extent,
        # Of the scenes, whose providers say what may be done with what is made of them.
        license="other",
        keywords=["landslide", "earthquake"],
        providers=providers,
    )
    collection.stac_extensions = [PROCESSING, PROJECTION, RASTER, MLM]
    document: dict[str, Any] = collection.to_dict(include_self_link=False)
    main = {name: _raster_fields(raster) for raster in summary.rasters[:2] for name in [raster.name]}
    document["item_assets"] = {
        name: {"title": output.title, "type": output.media_type, "roles": [output.role], **main.get(name, {})}
        for name in summary.assets
        if (output := OUTPUTS.get(name))
    }
    document["links"] = [
        _link("root", COLLECTION, JSON),
        _link("item", ITEM, GEOJSON, "The map"),
        _link("item", MODEL_ITEM, GEOJSON, "The model"),
    ]
    return document


def _dated(summary: ResultSummary, name: str) -> pystac.Item:
    """An item over the mapped area and the time of its scenes."""
    return pystac.Item(
        id=name,
        geometry=summary.footprint,
        bbox=list(shapely.geometry.shape(summary.footprint).bounds),
        datetime=None,
        start_datetime=summary.start,
        end_datetime=summary.end,
        properties={},
    )


def _linked(item: pystac.Item, summary: ResultSummary, more: Sequence[dict[str, str]]) -> dict[str, Any]:
    """The item as a document of the collection."""
    document: dict[str, Any] = item.to_dict(include_self_link=False)
    above = [_link(rel, COLLECTION, JSON) for rel in ("collection", "parent", "root")]
    return document | {"collection": summary.collection_id, "links": [*above, *more]}


def _link(rel: str, key: str, media_type: str, title: str | None = None) -> dict[str, str]:
    return {"rel": rel, "href": f"./{key}", "type": media_type} | ({"title": title} if title else {})
