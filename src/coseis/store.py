"""The probability cube of a run: chunks of codes go in, a sharded Zarr v3 group and done-records come out.

One chunk is one write: a shard in each of three arrays, put as whole objects, and its done-record last.
Several writers inside one shard would lose data silently, so a write that is not exactly one chunk is
refused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from obstore.store import ObjectStore
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pydantic import ValidationError
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest

from coseis.errors import InputRefusedError
from coseis.grid import epsg_of
from coseis.objects import (
    asked_again,
    delete_object,
    get_object,
    list_objects,
    open_store,
    put_object,
    store_errors,
)
from coseis.types import CODE_FILL, CODE_SCALE, CONTEXT_INCOMPLETE, SCENE_FILL, Phase, Status, Value
from coseis.vegetation import INDEX_SCALE
from coseis.windows import Chunk

CUBE = "probability.zarr"
ARRAYS = ("probability", "status", "scene", "vegetation")
RECORDS = "records"
RECORD_THREADS = 32
MOST_INNER_PX = 512
"""Largest inner chunk of a shard: what a reader fetches to look at one place."""


@dataclass(frozen=True)
class ChunkCodes:
    """The result of one chunk."""

    probability: NDArray[np.uint8]
    """(phase, class, y, x), codes of 1/200, 255 where not predicted."""
    status: NDArray[np.uint8]
    """(phase, y, x), Status codes and the bit CONTEXT_INCOMPLETE."""
    scene: NDArray[np.uint16]
    """(phase, y, x), index into items.json, 65535 where no scene."""
    vegetation: NDArray[np.uint8]
    """(phase, y, x), codes of an index of greenness (see `vegetation`), 255 where it is not known."""

    def digest(self) -> str:
        """SHA-256 of the decoded arrays: equal digests, equal chunk."""
        hasher = hashlib.sha256()
        for array in (self.probability, self.status, self.scene, self.vegetation):
            hasher.update(f"{array.shape}{array.dtype.str}".encode())
            hasher.update(np.ascontiguousarray(array).data)
        return hasher.hexdigest()


class DoneRecord(Value):
    """That a chunk was written whole, and the few numbers that the rest of the run needs of it."""

    chunk: str
    """`row_col` on the chunk grid."""
    identity: str
    """What the chunk was made from: `Plan.chunk_identity`."""
    digest: str
    """Of the decoded arrays."""
    histogram: tuple[int, ...]
    """Counts of the codes 0-200 of the first class, post phase."""
    observed_px: int
    """Pixels of the AOI that a scene of the post phase was used for."""
    aoi_px: int
    """Pixels of the AOI."""
    status_px: tuple[tuple[int, ...], ...]
    """Pixels of each status code, a phase each."""


def create_cube(
    out: str,
    geobox: GeoBox,
    *,
    phases: Sequence[Phase],
    classes: Sequence[str],
    core_px: int,
    chunk_px: int,
) -> None:
    """Lays out the arrays of one UTM zone, with the coordinates that xarray and rioxarray expect.

    Args:
        out: Address of the run.
        geobox: The output grid.
        phases: Coordinate of the phase axis.
        classes: Coordinate of the class axis.
        core_px: Cores of a window; inner chunks divide them.
        chunk_px: Side of a shard.
    """
    layout = {
        "probability": ((len(phases), len(classes)), np.uint8, CODE_FILL),
        "status": ((len(phases),), np.uint8, Status.NOT_COMPUTED),
        "scene": ((len(phases),), np.uint16, SCENE_FILL),
        "vegetation": ((len(phases),), np.uint8, CODE_FILL),
    }
    inner_px = inner_chunk_px(core_px)
    # Variable-length strings: fixed-length ones have no Zarr v3 specification.
    names = {
        "phase": np.array(phases, np.dtypes.StringDType()),
        "class": np.array(classes, np.dtypes.StringDType()),
    }
    template = xr.Dataset(coords=names).assign_coords(xr_coords(geobox))
    encoding = {}
    for name, (outer, dtype, fill) in layout.items():
        shape = (*outer, *geobox.shape)
        dims = ("phase", "class", "y", "x") if name == "probability" else ("phase", "y", "x")
        template[name] = (dims, da.zeros(shape, dtype=dtype, chunks=-1))
        template[name].attrs = {"grid_mapping": "spatial_ref"}
        template[name].encoding = {}
        encoding[name] = {
            "chunks": (*(1 for _ in outer), inner_px, inner_px),
            "shards": (*outer, chunk_px, chunk_px),
            "fill_value": int(fill),
        }
    probability = template.probability.attrs
    # Written as codes; xarray decodes them to [0, 1] with NaN. The attributes are CF's.
    probability |= {"scale_factor": 1 / CODE_SCALE, "_FillValue": CODE_FILL, "long_name": "class probability"}
    template.vegetation.attrs |= {
        "scale_factor": 1 / INDEX_SCALE,
        "add_offset": -1.0,
        "_FillValue": CODE_FILL,
        "long_name": "NDVI, or (green - red) / (green + red) where scenes have no near infrared",
    }
    template.status.attrs |= {
        "flag_values": [status.value for status in Status],
        "flag_meanings": " ".join(status.name.lower() for status in Status),
        "comment": f"the bit {CONTEXT_INCOMPLETE} is set where the network saw filled values",
    }
    # Laid out in memory and put object by object: several processes that begin one run at once put the same
    # bytes, where opening a group anew would delete what another has written.
    laid_out: dict[str, Buffer] = {}
    template.to_zarr(
        zarr.storage.MemoryStore(laid_out),
        group=str(epsg_of(geobox)),
        mode="w",
        compute=False,
        encoding=encoding,
        consolidated=False,
        safe_chunks=False,  # nothing is written through the template's one lazy chunk
    )
    store = open_store(out)
    for key in sorted(laid_out):
        put_object(store, f"{CUBE}/{key}", laid_out[key].to_bytes())


def write_zarr(probability: xr.DataArray, out: str) -> None:
    """Writes what `predict_proba` gives as a Zarr group that a run's own cube reads like: codes of 1/200.

    Args:
        probability: Lazy or not, float (class, y, x) in [0, 1] with a CRS; NaN is missing.
        out: Address of the folder; `probability.zarr/<epsg>` is made in it, or replaced.

    Raises:
        UsageError: the array has no CRS with an EPSG code.
        InputRefusedError: the output cannot be written.
    """
    epsg = epsg_of(probability.odc.geobox)
    encoding = {"probability": {"dtype": "uint8", "scale_factor": 1 / CODE_SCALE, "_FillValue": CODE_FILL}}
    cube = probability.rename("probability").to_dataset()
    names = np.array(cube["class"].values, np.dtypes.StringDType())
    cube.assign_coords({"class": names}).to_zarr(
        _zarr_store(out), group=str(epsg), mode="w", encoding=encoding, consolidated=False
    )


def inner_chunk_px(core_px: int) -> int:
    """The largest divisor of the core that is a multiple of 16 and at most 512 px."""
    return max(px for px in range(16, min(core_px, MOST_INNER_PX) + 1, 16) if core_px % px == 0)


def write_chunk(out: str, geobox: GeoBox, chunk: Chunk, codes: ChunkCodes) -> None:
    """Writes one chunk, whole shards only; the same chunk written twice ends in the same objects.

    Raises:
        InputRefusedError: the output cannot be written.
        ValueError: the arrays are not the chunk's shape, or the chunk is not one whole shard.
    """
    arrays = open_arrays(out, geobox)
    for name, values in (
        ("probability", codes.probability),
        ("status", codes.status),
        ("scene", codes.scene),
        ("vegetation", codes.vegetation),
    ):
        array = arrays[name]
        side = array.shards[-1] if array.shards else 0
        expected = tuple(
            min(side, total - side * at)
            for at, total in zip((chunk.row, chunk.col), geobox.shape, strict=True)
        )
        if (chunk.y0, chunk.x0) != (chunk.row * side, chunk.col * side) or values.shape[-2:] != expected:
            raise ValueError(
                f"chunk {chunk.name} at {chunk.y0}, {chunk.x0} with {values.shape} is not one shard of "
                f"{side} px"
            )
        with store_errors(open_store(out), f"chunk {chunk.name}"):
            array[(..., *chunk.slices)] = values


def open_arrays(out: str, geobox: GeoBox) -> dict[str, zarr.Array[Any]]:
    """The arrays probability, status and scene of a run, as plain Zarr: codes, not decoded.

    Raises:
        InputRefusedError: they are not there.
        UnreachableError: the store does not answer.
    """
    store = _zarr_store(out)
    with store_errors(store.store, f"{CUBE}/{epsg_of(geobox)}"):
        arrays = {
            name: zarr.open_array(store, path=f"{epsg_of(geobox)}/{name}", mode="r+") for name in ARRAYS
        }
    # An empty chunk that is not written looks like a lost one. Set on the array: zarr.config is the
    # process's, and threads that set it there undo each other.
    return {name: array.with_config({"write_empty_chunks": True}) for name, array in arrays.items()}


def shard_px(out: str, geobox: GeoBox) -> int:
    """Side of a run's chunks, as its arrays were laid out, px."""
    shards = open_arrays(out, geobox)["status"].shards
    if shards is None:
        raise InputRefusedError(f"{out}/{CUBE} is not sharded: it was not written by coseis")
    return shards[-1]


def put_record(store: ObjectStore, geobox: GeoBox, record: DoneRecord) -> None:
    """Marks a chunk done; to be called after `write_chunk` and not before."""
    put_object(store, f"{RECORDS}/{epsg_of(geobox)}/{record.chunk}.json", record.model_dump_json().encode())


def delete_record(store: ObjectStore, geobox: GeoBox, chunk: str) -> None:
    """Marks a chunk as not done; no error if it was not."""
    delete_object(store, f"{RECORDS}/{epsg_of(geobox)}/{chunk}.json")


def read_records(store: ObjectStore, geobox: GeoBox, identities: Mapping[str, str]) -> dict[str, DoneRecord]:
    """The done-records of a run by chunk name.

    A record that is torn, or says that its chunk was made from anything else than `identities` does, or whose
    shards are not all there, counts as not done.

    Args:
        store: Where the run lies.
        geobox: Of the zone.
        identities: `Plan.chunk_identity` of every chunk, by name.
    """
    whole = _written_chunks(store, geobox)
    keys = list(list_objects(store, f"{RECORDS}/{epsg_of(geobox)}/"))
    records = {}
    # Small reads, each a request to an object store: a region has ten thousand.
    with ThreadPoolExecutor(RECORD_THREADS) as pool:
        for content in pool.map(lambda key: get_object(store, key), keys):
            try:
                record = DoneRecord.model_validate_json(content or b"")
            except ValidationError:
                continue
            if record.identity == identities.get(record.chunk) and record.chunk in whole:
                records[record.chunk] = record
    return records


def digest_of(identity: object) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _written_chunks(store: ObjectStore, geobox: GeoBox) -> set[str]:
    """Names of the chunks whose shards are there in every array: `<array>/c/<outer...>/<row>/<col>`."""
    prefix = f"{CUBE}/{epsg_of(geobox)}/"
    found: dict[str, set[str]] = {name: set() for name in ARRAYS}
    for key in list_objects(store, prefix):
        array, *place = key.removeprefix(prefix).split("/")
        if array in found and place[0] == "c":
            found[array].add("_".join(place[-2:]))
    return set.intersection(*found.values())


class _PatientStore(zarr.storage.ObjectStore[ObjectStore]):
    """Zarr's store over obstore, whose broken answers are asked for again, and whose errors are ours."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        whole = super().get
        return await asked_again(self.store, key, lambda: whole(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        whole = super().set
        return await asked_again(self.store, key, lambda: whole(key, value))


def _zarr_store(out: str) -> _PatientStore:
    return _PatientStore(open_store(f"{out.rstrip('/')}/{CUBE}"))
