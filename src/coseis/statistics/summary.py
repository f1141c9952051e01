"""An inventory in, its statistics as one document out: statistics.json."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coseis import __version__
from coseis.statistics.areas import AreaSample
from coseis.statistics.density import DensitySummary, measure_density, summarize_density
from coseis.statistics.fit import LEAST_COUNT, SizeFit, fit_size_law
from coseis.statistics.goodness import GoodnessOfFit, check_fit
from coseis.statistics.inventory import Inventory
from coseis.statistics.magnitude import Magnitudes, measure_magnitude
from coseis.statistics.matching import InventoryComparison, compare_inventories
from coseis.statistics.rivals import LikelihoodRatio, PowerTail, compare_lognormal, fit_power_tail
from coseis.statistics.shape import SEVERAL, SIZES_M2, name_sizes, shape_attributes
from coseis.statistics.size_law import MALAMUD
from coseis.statistics.volume import RELATIONS, TotalVolume, estimate_volume
from coseis.types import Value

CONVENTION = (
    "rho is the exponent of the cumulative tail, tail_exponent that of the density, rho + 1: Malamud's law "
    "has rho 1.40 and tail_exponent 2.40. Areas are on the ground, m2. Intervals hold the truth in the share "
    "of cases that their confidence says."
)


class SizeStatistics(Value):
    """How many landslides of which sizes."""

    count: int
    """All, also those below the completeness area."""
    total_m2: float
    largest_m2: float | None
    """None where there is no landslide; so for the others."""
    mean_m2: float | None
    median_m2: float | None
    by_size: dict[str, int]
    """Landslides a size class."""
    completeness_m2: float
    """Least area from which on nothing is missing, as it was given: laws are fitted above it."""
    complete_count: int
    """Landslides at or above it."""
    cut_count: int
    """Those of them that touch the border of what was seen."""
    magnitudes: Magnitudes
    fit: SizeFit | None
    """None where there are too few landslides for a law."""
    rollover_to_malamud: float | None
    """The rollover in units of that of Malamud's law, 401 m2; None where it is extrapolated."""
    lognormal: LikelihoodRatio | None
    power_tail: PowerTail | None
    goodness: GoodnessOfFit | None
    """None: not asked for."""


class SplitStatistics(Value):
    """An inventory whose amalgamated outlines are cut, see `split.split_polygons`."""

    cut: int
    """Outlines that were cut."""
    parts: int
    """Landslides that they gave."""
    sizes: SizeStatistics
    volumes: tuple[TotalVolume, ...]
    """By each of `volume.RELATIONS`: relations are meant for single landslides."""


class Statistics(Value):
    """statistics.json."""

    source: str
    software_version: str
    convention: str
    sizes: SizeStatistics
    left_out: int
    """Rows of a file that have no area."""
    several: int
    """Landslides whose outline is likely to be several's, see `shape.shape_attributes`."""
    volumes: tuple[TotalVolume, ...]
    """By each of `volume.RELATIONS`."""
    density: DensitySummary | None
    """None: what was seen is not known."""
    split: SplitStatistics | None = None
    """Of a run, if asked for: the same landslides where outlines that are likely to be several's are cut."""
    variants: dict[str, SizeStatistics]
    """The same event drawn or fitted in other ways: how far the results depend on that."""
    reference: SizeStatistics | None = None
    """Of the inventory that it was compared with."""
    comparison: InventoryComparison | None = None


def describe_sizes(sample: AreaSample, *, count: int | None = None, simulated: int = 0) -> SizeStatistics:
    """Sizes, laws and magnitudes of one list of areas.

    Args:
        sample: The areas from the completeness area on.
        count: All landslides; None: those of the sample.
        simulated: Inventories for the test of the fit; 0: no test.
    """
    areas = sample.all_m2
    known = sample.known_m2
    enough = known.size >= LEAST_COUNT and known[0] < known[-1]
    fit = fit_size_law(sample) if enough else None
    names, counts = np.unique(name_sizes(areas), return_counts=True)
    ordered = dict.fromkeys(name_sizes(np.array(SIZES_M2)).tolist(), 0)
    return SizeStatistics(
        count=sample.count if count is None else count,
        total_m2=float(areas.sum()),
        largest_m2=float(areas.max()) if areas.size else None,
        mean_m2=float(areas.mean()) if areas.size else None,
        median_m2=float(np.median(areas)) if areas.size else None,
        by_size=ordered | dict(zip(names.tolist(), counts.tolist(), strict=True)),
        completeness_m2=sample.completeness_m2,
        complete_count=sample.count,
        cut_count=sample.cut_m2.size,
        magnitudes=measure_magnitude(sample),
        fit=fit,
        rollover_to_malamud=(
            fit.law.rollover_m2 / MALAMUD.rollover_m2 if fit and fit.rollover_is_seen else None
        ),
        lognormal=compare_lognormal(sample, fit.law) if fit else None,
        power_tail=fit_power_tail(sample),
        goodness=check_fit(sample, simulated=simulated) if fit and simulated else None,
    )


def summarize_inventory(
    inventory: Inventory,
    *,
    completeness_m2: float | None = None,
    variants: Mapping[str, AreaSample] | None = None,
    reference: Inventory | None = None,
    split: Inventory | None = None,
    simulated: int = 0,
) -> Statistics:
    """All statistics of an inventory.

    Args:
        inventory: The landslides.
        completeness_m2: Least area from which on nothing is missing; None: 1 % are smaller.
        variants: Areas of the same event by how they were drawn: at other thresholds, or with joined
            landslides split. Where landslides are cut, other ways to count those are added.
        reference: Another inventory of the same event and place.
        split: The same one with amalgamated outlines cut, of `split.split_polygons`.
        simulated: Inventories for the test of the fit; 0: no test.

    Raises:
        UsageError: The completeness area is no area.
    """
    sample = inventory.sample(completeness_m2)
    others = dict(variants or {})
    if sample.cut_m2.size:
        others["cut landslides as whole"] = inventory.sample(completeness_m2, rule="whole")
        others["cut landslides as at least so large"] = inventory.sample(completeness_m2, rule="at least")
    polygons = inventory.polygons
    shapes = polygons if "amalgamation" in polygons else shape_attributes(polygons)
    density = None
    if inventory.cells is not None:
        density = summarize_density(measure_density(polygons, inventory.cells))
    least_m2 = sample.completeness_m2
    return Statistics(
        source=inventory.source,
        software_version=__version__,
        convention=CONVENTION,
        sizes=describe_sizes(sample, count=len(polygons), simulated=simulated),
        left_out=inventory.left_out,
        several=int((shapes["amalgamation"] >= SEVERAL).sum()),
        volumes=tuple(estimate_volume(sample.all_m2, relation) for relation in RELATIONS),
        density=density,
        split=None if split is None else _describe_split(split, least_m2),
        variants={name: describe_sizes(other) for name, other in others.items()},
        reference=None if reference is None else describe_sizes(reference.sample(least_m2)),
        comparison=(
            None
            if reference is None
            else compare_inventories(polygons, reference.polygons, least_m2=least_m2)
        ),
    )


def _describe_split(split: Inventory, least_m2: float) -> SplitStatistics:
    """From the same completeness area on as the unsplit inventory."""
    sample = split.sample(least_m2)
    counts = split.polygons["whole_id"].value_counts()
    return SplitStatistics(
        cut=int((counts > 1).sum()),
        parts=int(counts[counts > 1].sum()),
        sizes=describe_sizes(sample, count=len(split.polygons)),
        volumes=tuple(estimate_volume(sample.all_m2, relation) for relation in RELATIONS),
    )
