"""In: a STAC item as its catalog gives it. Out: where each wanted band is stored, and in which numbers.

Asset keys are file names at Planet and free text elsewhere, so no asset is ever chosen by its key: what
counts is Planet's product type, then roles and the bands' common names.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from coseis.addresses import is_secret
from coseis.errors import InputRefusedError
from coseis.types import BandSource, InputKind, Level, Value

SURFACE_REFLECTANCE = (
    "ortho_analytic_4b_sr",  # PSScene; before the 8-band product: the same bands in half the bytes
    "ortho_analytic_8b_sr",
    "ortho_analytic_sr",  # SkySat
    "analytic_sr",  # PSOrthoTile, REOrthoTile, PSScene4Band
    "ps4b_analytic_sr",
)
"""Planet's `pl:asset_type` with surface reflectance, the preferred one first."""
TOP_OF_ATMOSPHERE = (
    "ortho_analytic_4b",  # PSScene
    "ortho_analytic_8b",
    "ortho_analytic",  # SkySat
    "analytic",  # PSOrthoTile, and PSScene of old
)
"""Planet's `pl:asset_type` of reflectance with the air's own light in it, the preferred one first."""
VISUAL = ("ortho_visual", "visual")
"""Planet's `pl:asset_type` with 8-bit red-green-blue, the preferred one first."""

_EIGHT = ("coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")
PRODUCT_BANDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("ortho_analytic_4b_sr", "ortho_analytic_4b"), ("blue", "green", "red", "nir")),
    **dict.fromkeys(("ortho_analytic_8b_sr", "ortho_analytic_8b"), _EIGHT),
    "ortho_analytic_sr": ("blue", "green", "red", "nir"),
    **dict.fromkeys(VISUAL, ("red", "green", "blue")),
}
"""Band order by Planet's product specification, for items that do not list their bands."""
PLANET_SR_SCALE = 1e-4
"""Stored number to surface reflectance in Planet's SR products, for items that do not say."""

MOST_TOA_SCALE = 1e-3
"""Reflectance coefficients are about 2e-5 to 4e-5; 0.01, as in some old products, would give radiance."""

UDM2 = ("ortho_udm2", "udm2", "ortho_analytic_udm2", "ortho_pansharpened_udm2")
"""Planet's `pl:asset_type` of the usable data mask with eight bands, the preferred one first."""

_VISIBLE = frozenset(("red", "green", "blue"))


class MissingBandsError(InputRefusedError):
    """An item has usable assets, but not the bands that the model reads."""


class Resolved(Value):
    """Where the wanted bands of one item lie."""

    kind: InputKind
    level: Level
    sources: tuple[BandSource, ...]
    """One a wanted band, in the order asked for; then near infrared, where the same file has it."""
    udm2: BandSource | None
    resolution_m: float | None
    """Pixel size by the item's metadata; where only that is given, the ground sample distance."""


class _Layer(NamedTuple):
    """One band of one asset, with what STAC 1.0 (eo:bands, raster:bands) or 1.1 (bands) say of it."""

    asset: str
    number: int
    """Band number in the file, from 1."""
    name: str | None
    """Common name, or the product specification's."""
    data_type: str | None
    scale: float | None
    offset: float | None
    nodata: float | None
    resolution_m: float | None


def resolve_assets(
    item: Mapping[str, Any],
    bands: Sequence[str],
    kinds: Sequence[InputKind],
    *,
    admit: Callable[[str], str],
) -> Resolved:
    """Choose the assets of one item that hold the wanted bands.

    An asset is `display` if it holds red, green and blue in 8 bits and Planet calls it visual, or its role is
    `visual`, or it is `data` and says that it is uint8. It is
    `reflectance` if Planet calls it surface reflectance, or if its numbers have a scale: role `reflectance`,
    or a 16-bit `data` asset with `scale`. One asset with all bands is preferred, then one asset a band.

    Where nothing else fits and reflectance is accepted, Planet's product at the top of the atmosphere is
    taken, by its scale a band: what the air adds to it is taken off when the scene is measured (`haze`).
    Other level 1 products are refused: their scales mean radiance as often as reflectance.

    Args:
        item: STAC item, or a Planet Data API answer (always refused: its assets are names only).
        bands: STAC common names.
        kinds: Accepted kinds, the preferred one first.
        admit: Gives the absolute, checked form of an asset's href, or raises InputRefusedError.

    Raises:
        MissingBandsError: assets of an accepted kind are there, but not with all of the bands.
        InputRefusedError: no asset fits; the reason is said in terms of the item. Or what `admit` raises.
    """
    assets = _assets(item)
    usable: set[str] = set()
    wanted: list[tuple[InputKind, Level]] = [(kind, "surface") for kind in kinds]
    if "reflectance" in kinds:
        wanted.append(("reflectance", "toa"))
    for kind, level in wanted:
        fitting = _fitting(item, assets, kind, level)
        usable |= {layer.name for layers in fitting for layer in layers if layer.name}
        layers = _choose(fitting, bands)
        if layers:
            names = [*bands, *_beside(fitting, layers, bands)]
            sources = tuple(
                _source(assets, layer, band, kind, admit)
                for layer, band in zip(_choose(fitting, names), names, strict=True)
            )
            return Resolved(
                kind=kind,
                level=level,
                sources=sources,
                udm2=_find_udm2(assets, admit),
                resolution_m=_resolution_m(item, assets, layers),
            )
    if usable:
        missing = ", ".join(band for band in bands if band not in usable) or "all of them on one grid"
        raise MissingBandsError(f"its assets have bands {', '.join(sorted(usable))}, but not {missing}")
    raise InputRefusedError(_why_not(item, assets, bands, kinds))


def _assets(item: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    assets = item.get("assets")
    if isinstance(assets, list):
        raise InputRefusedError(
            "its assets are names, not files (a Planet Data API answer); order or activate them, and search "
            "the STAC catalog that is delivered with the files"
        )
    if not isinstance(assets, Mapping) or not assets:
        raise InputRefusedError("it has no assets")
    return {key: asset for key, asset in assets.items() if isinstance(asset, Mapping) and asset.get("href")}


def _fitting(
    item: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]], kind: InputKind, level: Level
) -> list[list[_Layer]]:
    """The layers of each asset of a kind, the preferred asset first."""
    products = TOP_OF_ATMOSPHERE if level == "toa" else SURFACE_REFLECTANCE
    preferred = VISUAL if kind == "display" else products

    def fits(asset: Mapping[str, Any], layers: Sequence[_Layer]) -> bool:
        return _fits_toa(asset, layers) if level == "toa" else _fits(item, asset, layers, kind)

    return [
        layers
        for key in sorted(assets, key=lambda key: _rank(assets[key], preferred))
        if (layers := list(_layers(key, assets[key]))) and fits(assets[key], layers)
    ]


def _choose(fitting: Sequence[list[_Layer]], bands: Sequence[str]) -> list[_Layer]:
    """The layer of each band, or nothing if a band is missing."""
    for layers in fitting:
        chosen = _pick(layers, bands)
        if chosen:
            return chosen
    single = [layers[0] for layers in fitting if len(layers) == 1]
    return _pick(sorted(single, key=lambda layer: layer.resolution_m or math.inf), bands)


def _beside(fitting: Sequence[list[_Layer]], layers: Sequence[_Layer], bands: Sequence[str]) -> list[str]:
    """Near infrared, if it lies in the one file that the bands are taken from: it tells what is green."""
    files = {layer.asset for layer in layers}
    return [
        "nir"
        for asset in fitting
        if {layer.asset for layer in asset} == files and "nir" in {layer.name for layer in asset} - set(bands)
    ]


def _pick(layers: Sequence[_Layer], bands: Sequence[str]) -> list[_Layer]:
    first = {layer.name: layer for layer in reversed(layers)}
    return [first[band] for band in bands] if set(bands) <= set(first) else []


def _rank(asset: Mapping[str, Any], preferred: Sequence[str]) -> int:
    product = asset.get("pl:asset_type")
    return preferred.index(product) if product in preferred else len(preferred)


def _fits(
    item: Mapping[str, Any], asset: Mapping[str, Any], layers: Sequence[_Layer], kind: InputKind
) -> bool:
    product, roles = asset.get("pl:asset_type"), asset.get("roles") or ()
    types = {layer.data_type for layer in layers}
    if not is_geotiff(asset):
        return False
    if kind == "display":
        visual = (
            product in VISUAL if product else "visual" in roles or ("data" in roles and None not in types)
        )
        return visual and types <= {"uint8", None} and {layer.name for layer in layers} >= _VISIBLE
    if product:
        return product in SURFACE_REFLECTANCE
    if str((item.get("properties") or {}).get("processing:level", "")).startswith("L1"):
        return False
    if all(layer.data_type == "float32" for layer in layers):
        return "reflectance" in roles
    scaled = all(layer.scale is not None for layer in layers) and "uint8" not in types
    return scaled and not {"reflectance", "data"}.isdisjoint(roles)


def _fits_toa(asset: Mapping[str, Any], layers: Sequence[_Layer]) -> bool:
    scaled = all(layer.scale is not None and 0 < layer.scale <= MOST_TOA_SCALE for layer in layers)
    return scaled and asset.get("pl:asset_type") in TOP_OF_ATMOSPHERE and is_geotiff(asset)


def is_geotiff(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is one by its media type or, where it states none, by its name."""
    media = str(asset.get("type") or "").lower()
    path = re.split("[?#]", str(asset["href"]), maxsplit=1)[0].lower()
    return "tiff" in media if media else path.endswith((".tif", ".tiff"))


def _layers(key: str, asset: Mapping[str, Any]) -> Iterator[_Layer]:
    optical, raster, merged = (_dicts(asset.get(field)) for field in ("eo:bands", "raster:bands", "bands"))
    known = PRODUCT_BANDS.get(str(asset.get("pl:asset_type")), ())
    count = max(len(optical), len(raster), len(merged)) or len(known)
    for place in range(count):
        facts: dict[str, Any] = dict(asset)
        for listed in (optical, raster, merged):
            facts |= listed[place] if place < len(listed) else {}
        name = facts.get("eo:common_name") or facts.get("common_name")
        if not name and not optical and not merged and place < len(known):
            name = known[place]
        yield _Layer(
            asset=key,
            number=place + 1,
            name=str(name) if name else None,
            data_type=facts.get("data_type"),
            scale=_number(facts.get("raster:scale", facts.get("scale"))),
            offset=_number(facts.get("raster:offset", facts.get("offset"))),
            nodata=_number(facts.get("nodata")),
            resolution_m=_number(
                facts.get("raster:spatial_resolution") or facts.get("spatial_resolution") or facts.get("gsd")
            ),
        )


def _dicts(listed: object) -> list[dict[str, Any]]:
    if not isinstance(listed, list):
        return []
    return [dict(band) if isinstance(band, Mapping) else {} for band in listed]


def _number(value: object) -> float | None:
    """A finite number; NaN and text such as "nan" leave the question to the file."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _source(
    assets: Mapping[str, Mapping[str, Any]],
    layer: _Layer,
    band: str,
    kind: InputKind,
    admit: Callable[[str], str],
) -> BandSource:
    asset = assets[layer.asset]
    scale, offset = 1.0, 0.0
    if kind == "reflectance":
        planet = asset.get("pl:asset_type") in SURFACE_REFLECTANCE
        scale = layer.scale if layer.scale is not None else PLANET_SR_SCALE if planet else 1.0
        offset = layer.offset or 0.0
    return BandSource(
        band=band,
        asset=layer.asset,
        href=_admitted(layer.asset, asset, admit),
        index=layer.number,
        scale=scale,
        offset=offset,
        nodata=layer.nodata,
    )


def _admitted(key: str, asset: Mapping[str, Any], admit: Callable[[str], str]) -> str:
    href = str(asset["href"])
    refuse_signature(f"asset {key}", href)
    admitted = admit(href)
    # One that is no more than a fragment keeps the query of its document.
    refuse_signature(f"asset {key}", admitted)
    return admitted


def refuse_signature(what: str, href: str) -> None:
    """Raises InputRefusedError for a signed address, since addresses are published; `what` is named."""
    _, _, query = href.partition("?")
    secrets = {name.lower() for name, _ in parse_qsl(query) if is_secret(name)}
    if secrets:
        raise InputRefusedError(
            f"the address of {what} carries a signature (parameter {', '.join(sorted(secrets))}), which "
            "would be published with the result; use plain addresses, and credentials in the environment"
        )


def _find_udm2(assets: Mapping[str, Mapping[str, Any]], admit: Callable[[str], str]) -> BandSource | None:
    for product in UDM2:
        for key, asset in assets.items():
            if asset.get("pl:asset_type") == product:
                return BandSource(band="udm2", asset=key, href=_admitted(key, asset, admit), index=1)
    return None


def _resolution_m(
    item: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]], layers: Sequence[_Layer]
) -> float | None:
    # A PlanetScope pixel is 3 m whatever its ground sample distance (3.0-4.2 m) was.
    properties = item.get("properties") or {}
    sizes = [layer.resolution_m for layer in layers if layer.resolution_m]
    return _number(properties.get("pl:pixel_resolution")) or (
        max(sizes) if sizes else _number(properties.get("gsd"))
    )


def _why_not(
    item: Mapping[str, Any],
    assets: Mapping[str, Mapping[str, Any]],
    bands: Sequence[str],
    kinds: Sequence[InputKind],
) -> str:
    level = str((item.get("properties") or {}).get("processing:level", ""))
    rasters = {key: asset for key, asset in sorted(assets.items()) if is_geotiff(asset)}
    products = {str(asset.get("pl:asset_type") or "") for asset in rasters.values()}
    images = sorted(product for product in products if product and not product.endswith(("udm", "udm2")))
    if any(product.startswith("basic_") for product in images):
        problem = "not orthorectified, so no pixel has a place on the map"
    elif any("pansharpened" in product or "panchromatic" in product for product in images):
        problem = "raw numbers that no scale turns into reflectance"
    elif any(name in TOP_OF_ATMOSPHERE for name in images):
        problem = (
            "top of the atmosphere without a scale a band (the reflectanceCoefficient of its XML, as "
            f"raster:bands scale); expected that, or surface reflectance, such as {SURFACE_REFLECTANCE[0]}"
        )
    elif level.startswith("L1") or any("analytic" in name and "_sr" not in name for name in images):
        problem = f"top of the atmosphere; expected surface reflectance, such as {SURFACE_REFLECTANCE[0]}"
    else:
        problem = "expected 8-bit red, green and blue (display), or bands with a scale (reflectance)"
        images = [
            f"{key} ({', '.join(layer.name or '?' for layer in _layers(key, asset)) or 'bands not listed'})"
            for key, asset in rasters.items()
        ]
    return (
        f"no asset has bands {', '.join(bands)} as {' or '.join(kinds)}; "
        f"it has {', '.join(images) or 'no GeoTIFF'}: {problem}"
    )
