"""Percentiles of a scene at the top of the atmosphere go in, the light of its air in each band comes out.

Dark-object subtraction: in every scene some ground is nearly black, in deep shadow, water or dense forest, so
what its darkest pixels send is the air's. It is a constant of the scene and the band, and is kept as the
source's offset, so that whoever reads the scene reads it alike. docs/decisions/0013 has the figures.
"""

from collections.abc import Mapping

from coseis.types import Percentiles, Scene

DARK_REFLECTANCE = 0.01
"""Of the darkest ground: nothing is quite black."""
MOST_PATH_REFLECTANCE = 0.15
"""Of hazy air in the blue. More is a scene without dark ground."""
BY_WAVELENGTH = ("coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")


def path_reflectance(statistics: Mapping[str, Percentiles]) -> dict[str, float]:
    """The light of the air in each band, reflectance from 0 to MOST_PATH_REFLECTANCE.

    It never grows with the wavelength: air scatters blue the most, and a scene of bright soil alone, whose
    red is far from dark, keeps its colours that way.

    Reference: Chavez 1988, doi:10.1016/0034-4257(88)90019-3; the second percentile is ours, in place of the
    histogram's foot, and the bound in place of a scattering model.
    """
    most, paths = MOST_PATH_REFLECTANCE, {}
    for band in BY_WAVELENGTH:
        if band in statistics:
            most = min(most, max(0.0, statistics[band].p02 - DARK_REFLECTANCE))
            paths[band] = round(most, 6)
    return paths


def without_haze(scene: Scene, statistics: Mapping[str, Percentiles]) -> tuple[Scene, dict[str, Percentiles]]:
    """The scene with the light of its air taken off by its sources' offsets, and its percentiles after that.

    A second time nothing is left to take off. Bands that were not measured stay.
    """
    paths = path_reflectance(statistics)
    sources = tuple(
        source.model_copy(update={"offset": source.offset - paths.get(source.band, 0.0)})
        for source in scene.sources
    )
    cleared = {
        band: Percentiles(
            **{name: round(value - paths.get(band, 0.0), 6) for name, value in measured.model_dump().items()}
        )
        for band, measured in statistics.items()
    }
    return scene.model_copy(update={"sources": sources}), cleared
