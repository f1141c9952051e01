import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coseis.assets import PLANET_SR_SCALE, Resolved, resolve_assets
from coseis.errors import InputRefusedError

BGRN = ("blue", "green", "red", "nir")
RGB = ("red", "green", "blue")
KINDS = ("display", "reflectance")


def resolve(item, bands=RGB, kinds=KINDS, admit=lambda href: href) -> Resolved:
    return resolve_assets(item, bands, kinds, admit=admit)


def geotiff(names=RGB, data_type="uint16", roles=("data",), **facts) -> dict:
    return {
        "href": "x.tif",
        "type": "image/tiff",
        "roles": list(roles),
        "eo:bands": [{"common_name": name} for name in names],
        "raster:bands": [{"data_type": data_type, **facts} for _ in names],
    }


def _real_items(folder: Path) -> Iterator[dict]:
    for path in sorted(folder.rglob("*.json")):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            yield document


def test_every_real_open_item_resolves(real_data):
    items = list(_real_items(real_data / "planet_stac" / "open-stac"))
    assert len(items) == 39
    for item in items:
        resolved = resolve(item, BGRN)
        assert resolved.kind == "reflectance"
        assert [source.band for source in resolved.sources] == list(BGRN)
        assert {source.scale for source in resolved.sources} == {PLANET_SR_SCALE}
        assert len({source.href for source in resolved.sources}) == 1
        listed = item["assets"][resolved.sources[0].asset]["eo:bands"]
        assert [listed[source.index - 1]["common_name"] for source in resolved.sources] == list(BGRN)
        assert (resolved.udm2 is None) == ("analysis_ready" in item["id"])
        assert resolved.resolution_m == (0.5 if "ssc" in item["id"] else 3)


def test_real_items_of_note(real_data):
    items = {item["id"]: item for item in _real_items(real_data / "planet_stac" / "open-stac")}
    eight = resolve(items["20220822_111828_50_249d"], BGRN)
    assert [source.index for source in eight.sources] == [2, 4, 6, 8]
    assert eight.udm2.href.endswith("_3B_udm2_clip.tif")
    every = ("coastal", "blue", "green", "yellow", "red", "rededge", "nir")  # green_i has no common name
    assert [source.index for source in resolve(items["20220822_111828_50_249d"], every).sources] == [
        1, 2, 4, 5, 6, 7, 8,
    ]  # fmt: skip
    brandenburg = resolve(items["2024-08-13_analysis_ready_ps_sr"])
    assert {source.nodata for source in brandenburg.sources} == {-999}
    assert [source.index for source in brandenburg.sources] == [3, 2, 1, 4]


def test_real_examples_resolve_or_say_why(real_data):
    answers = {}
    for item in _real_items(real_data / "planet_stac"):
        try:
            answers[item["id"]] = resolve(item).kind
        except InputRefusedError as error:
            answers[item["id"]] = str(error)
    assert answers["6188707_5254519_2023-01-04_227c"] == "display"  # PSOrthoTile
    assert answers["20221003_011846_ssc2d3_0010"] == "display"  # SkySatScene
    assert answers["20190813_013745_5254519_RapidEye-3"] == "display"  # bands not listed
    refused = {item_id: answer for item_id, answer in answers.items() if answer not in KINDS}
    assert len(refused) == 6
    assert answers["20210129_075502_95_2223"] == "reflectance"  # at the top of the atmosphere
    assert "not orthorectified" in refused["2019-04-04T015035_RE2"]
    assert "ortho_pansharpened: raw numbers" in refused["20221003_011846_ssc2_u0001"]
    for item_id in ("20220125_075509_67_1061", "20220125_075511_17_1061", "20220125_075650_17_1061"):
        assert "names, not files (a Planet Data API answer); order or activate" in refused[item_id]


def test_real_top_of_atmosphere_item_has_a_scale_a_band(real_data):
    (item,) = (
        item for item in _real_items(real_data / "planet_stac") if item["id"] == "20210129_075502_95_2223"
    )
    resolved = resolve(item, BGRN)
    assert (resolved.kind, resolved.level) == ("reflectance", "toa")
    assert [source.index for source in resolved.sources] == [1, 2, 3, 4]
    scales = [source.scale for source in resolved.sources]
    assert scales == [2.00015317019e-05, 2.16932146323e-05, 2.61107788024e-05, 4.13267975929e-05]
    with pytest.raises(InputRefusedError, match="no asset has bands red, green, blue as display"):
        resolve(item, kinds=("display",))


def toa(product: str = "ortho_analytic_4b", **facts) -> dict:
    """Planet's product: its bands are known by its name."""
    count = 8 if "8b" in product else 4
    asset = {"href": "x.tif", "type": "image/tiff", "roles": ["data"], "pl:asset_type": product}
    return asset | {"raster:bands": [{"data_type": "uint16", **facts} for _ in range(count)]}


def test_top_of_atmosphere_is_the_last_choice():
    surface = {"href": "sr.tif", "type": "image/tiff", "pl:asset_type": "ortho_analytic_8b_sr"}
    visual = geotiff(data_type="uint8") | {"pl:asset_type": "ortho_visual"}
    assets = {"a": toa(scale=2e-5), "b": surface, "c": visual}
    for kinds in (KINDS, KINDS[::-1]):
        chosen = resolve({"assets": assets}, kinds=kinds)
        assert (chosen.kind, chosen.level) == (kinds[0], "surface")
    left = {"assets": {"a": assets["a"]}}
    assert resolve(left).level == "toa"
    # Beside a visual without nir it is all that fits.
    assert resolve({"assets": {"a": assets["a"], "c": visual}}, BGRN).level == "toa"


def test_eight_bands_at_the_top_of_the_atmosphere():
    resolved = resolve({"assets": {"a": toa("ortho_analytic_8b", scale=2e-5)}}, ("green_i", *BGRN))
    assert [(source.index, source.scale) for source in resolved.sources] == [
        (index, 2e-5) for index in (3, 2, 4, 6, 8)
    ]


@pytest.mark.parametrize("scale", [None, 0, -2e-5, 0.01])
def test_numbers_that_are_no_reflectance_are_refused(scale):
    facts = {} if scale is None else {"scale": scale}
    with pytest.raises(InputRefusedError, match=r"top of the atmosphere without a scale a band .*XML"):
        resolve({"assets": {"a": toa(**facts)}})


def test_real_scenes_resolve(real_data):
    kinds = {item["id"]: resolve(item) for item in _real_items(real_data / "iburi")}
    assert kinds["iburi_post_3B_Visual"].kind == "display"
    single = kinds["iburi_pre_s2"]
    assert single.kind == "reflectance"
    assert [Path(source.href).name for source in single.sources] == ["B4.tif", "B3.tif", "B2.tif"]
    assert [source.index for source in single.sources] == [1, 1, 1]


def test_keys_never_matter():
    assets = {"red": geotiff(BGRN[:3], roles=("thumbnail",)), "zzz": geotiff(scale=1e-4)}
    assert {source.asset for source in resolve({"assets": assets}).sources} == {"zzz"}


def test_kinds_are_in_order_of_preference():
    visual = geotiff(data_type="uint8", roles=("visual",))
    item = {"assets": {"a": geotiff(scale=1e-4, offset=-0.1, nodata=0), "b": visual}}
    assert resolve(item).kind == "display"
    reflectance = resolve(item, kinds=("reflectance", "display"))
    assert reflectance.kind == "reflectance"
    assert {(s.scale, s.offset, s.nodata) for s in reflectance.sources} == {(1e-4, -0.1, 0)}
    # Display has no nir: the next kind is asked.
    with_nir = {"assets": {"a": geotiff(BGRN, scale=1e-4), "b": visual}}
    assert resolve(with_nir, BGRN).kind == "reflectance"


def test_display_keeps_stored_numbers():
    item = {"assets": {"a": geotiff(data_type="uint8", roles=("visual",), scale=1 / 255, nodata=0)}}
    assert {(s.scale, s.offset, s.nodata) for s in resolve(item).sources} == {(1, 0, 0)}


def test_stac_1_1_bands():
    asset = {
        "href": "x.tif",
        "roles": ["data", "reflectance"],
        "data_type": "uint16",
        "raster:scale": 1e-4,
        "bands": [{"eo:common_name": name, "nodata": "nan" if name == "red" else 0} for name in RGB],
    }
    resolved = resolve({"properties": {"gsd": 10}, "assets": {"a": asset}})
    assert [(s.index, s.scale, s.nodata) for s in resolved.sources] == [
        (1, 1e-4, None),
        (2, 1e-4, 0),
        (3, 1e-4, 0),
    ]
    assert resolved.resolution_m == 10


def test_finest_single_band_asset_wins():
    coarse, fine = (geotiff(("red",), scale=1e-4, spatial_resolution=metres) for metres in (20, 10))
    others = {name: geotiff((name,), scale=1e-4, spatial_resolution=10) for name in RGB[1:]}
    resolved = resolve({"assets": {"a": coarse, "b": fine, **others}})
    assert [source.asset for source in resolved.sources] == ["b", "green", "blue"]


def test_planet_product_without_listed_bands():
    asset = {"href": "x.tif", "type": "image/tiff", "pl:asset_type": "ortho_analytic_8b_sr"}
    resolved = resolve({"assets": {"a": asset}}, BGRN)
    assert [(s.index, s.scale) for s in resolved.sources] == [(n, PLANET_SR_SCALE) for n in (2, 4, 6, 8)]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "it has no assets"),
        ({"assets": {"a": {"href": "x.json", "type": "application/json"}}}, "no GeoTIFF"),
        ({"assets": {"a": geotiff()}}, r"a \(red, green, blue\): expected 8-bit .* or bands with a scale"),
        (
            {"assets": {"a": geotiff(("red", "nir"), scale=1e-4)}},
            "its assets have bands nir, red, but not green, blue",
        ),
        ({"assets": {"a": {"href": "x.tif", "type": "image/tiff"}}}, r"a \(bands not listed\)"),
        (
            {
                "properties": {"processing:level": "L1C"},
                "assets": {"a": geotiff(scale=1e-4, roles=("data", "reflectance"))},
            },
            "top of the atmosphere; expected surface reflectance",
        ),
    ],
)
def test_refusals(item, message):
    with pytest.raises(InputRefusedError, match=message):
        resolve(item)


def test_signed_address_is_refused_without_showing_it():
    asset = geotiff(scale=1e-4) | {"href": "https://example.org/x.tif?X-Amz-Signature=s3cret"}
    with pytest.raises(
        InputRefusedError, match=r"carries a signature \(parameter x-amz-signature\)"
    ) as refused:
        resolve({"assets": {"a": asset}})
    assert "s3cret" not in str(refused.value)


def test_only_chosen_assets_are_admitted():
    asked = []
    assets = {
        "a": geotiff(scale=1e-4),
        "b": geotiff(("nir",), scale=1e-4) | {"href": "nir.tif"},
        "c": {"href": "preview.png", "roles": ["thumbnail"]},
        "d": geotiff(()) | {"href": "udm2.tif", "pl:asset_type": "ortho_udm2"},
    }
    resolved = resolve({"assets": assets}, admit=lambda href: asked.append(href) or f"/base/{href}")
    assert set(asked) == {"x.tif", "udm2.tif"}
    assert resolved.udm2.href == "/base/udm2.tif"
