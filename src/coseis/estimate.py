"""A plan and the rate of an earlier run go in; chunks, bytes, memory, seconds and cost to expect come out."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click
import shapely
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from coseis.grid import footprint, footprint_bounds
from coseis.identity import Identity
from coseis.plan import Plan
from coseis.types import Value

RATES = Path(click.get_app_dir("coseis"), "rates.json")
"""What this user's runs have measured; a hint for the next estimate, and nothing else."""
STORED_BYTES = {"display": 1, "reflectance": 2}
"""Bytes a stored pixel and band by kind of input: 8-bit pictures, 16-bit reflectance."""


class Rate(Value):
    """What a worker delivered in an earlier run."""

    device: str
    precision: str
    model: str
    """Digest of the weights."""
    mpx_per_s: float
    """Observed megapixels of all phases a second and worker, reading and writing included."""
    measured: AwareDatetime


class Estimate(Value):
    """What a run would do; None where nothing like it has been measured."""

    scenes: int
    shape: tuple[int, int]
    resolution_m: float
    aoi_km2: float
    chunks: int
    chunk_px: int
    bytes_to_read: int
    """Decoded pixels of all scenes on the grid, without halos."""
    worker_bytes: int
    """What a worker needs at most."""
    workers: int
    rate: Rate | None
    seconds: float | None
    """To predict; search before it and polygons after it are not counted."""
    cost: float | None
    """Of the workers for so long, in the unit of the price that was given."""


_rates = TypeAdapter(tuple[Rate, ...])


def estimate_run(
    plan: Plan, *, chunk_px: int, worker_bytes: int, workers: int, price_per_hour: float | None = None
) -> Estimate:
    """What a plan would take.

    Args:
        plan: Not begun yet.
        chunk_px: Side of a chunk.
        worker_bytes: See `memory.worker_bytes`.
        workers: Worker processes, one device each.
        price_per_hour: Of a worker, in any currency.
    """
    identity, grid = plan.identity, plan.geobox
    pixel_m2 = abs(grid.affine.a * grid.affine.e)
    on_grid_m2 = {
        scene.index: sum(
            shapely.box(*zone.geobox.boundingbox)
            .intersection(shapely.box(*footprint_bounds(scene, zone.geobox)))
            .area
            for zone in plan.zones
        )
        for scene in plan.found.scenes
    }
    bands = len(plan.read_bands)
    stored = sum(
        on_grid_m2[scene.index] / pixel_m2 * bands * STORED_BYTES[scene.kind] for scene in plan.found.scenes
    )
    aoi_km2 = sum(footprint(zone.found.event.aoi, zone.geobox).area for zone in plan.zones) / 1e6
    rate = find_rate(identity)
    delivered_mpx = aoi_km2 * 1e6 / pixel_m2 / 1e6 * len(identity.phases)
    seconds = delivered_mpx / (rate.mpx_per_s * workers) if rate else None
    return Estimate(
        scenes=len(plan.found.scenes),
        shape=identity.shape,
        resolution_m=abs(grid.affine.a),
        aoi_km2=round(aoi_km2, 3),
        chunks=sum(len(zone.chunks(chunk_px)) for zone in plan.zones),
        chunk_px=chunk_px,
        bytes_to_read=round(stored),
        worker_bytes=worker_bytes,
        workers=workers,
        rate=rate,
        seconds=seconds,
        cost=None if seconds is None or price_per_hour is None else seconds / 3600 * workers * price_per_hour,
    )


def keep_rate(identity: Identity, mpx_per_s: float, workers: int) -> None:
    """Keeps what a run measured for later estimates, in place of an earlier one of its kind."""
    rate = Rate(
        device=identity.device,
        precision=identity.precision,
        model=identity.model,
        mpx_per_s=round(mpx_per_s / max(1, workers), 6),
        measured=datetime.now(UTC),
    )
    others = [kept for kept in _kept_rates() if not _alike(kept, identity)]
    # A home that cannot be written, as in a container, is no fault of the run.
    with suppress(OSError):
        RATES.parent.mkdir(parents=True, exist_ok=True)
        RATES.write_bytes(_rates.dump_json((*others, rate), indent=1))


def find_rate(identity: Identity) -> Rate | None:
    """The last rate of the same model, precision and device."""
    return next((kept for kept in _kept_rates() if _alike(kept, identity)), None)


def _alike(rate: Rate, identity: Identity) -> bool:
    kind = (identity.device, identity.precision, identity.model)
    return (rate.device, rate.precision, rate.model) == kind


def _kept_rates() -> tuple[Rate, ...]:
    try:
        return _rates.validate_json(RATES.read_bytes())
    except (OSError, ValidationError):
        return ()
