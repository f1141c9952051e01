"""Labelled pixels in, closed rings out: boundaries on the integer lattice, exact, in whole-array operations.

The lattice vertex (row, col) is the upper left corner of the pixel (row, col). Only vertices where a boundary
turns matter: along every lattice line the turns, in order, are the ends of boundary edges, two by two.
A vertex is described by who owns the four pixels around it, so the pieces of a boundary that was cut by
blocks are joined by filling in each other's missing owners; nothing is ever compared as floats.

Where two pixels of one component touch only at a corner, the ring goes around each of the two background
pixels apart. So a hole that reaches the outside only across such a corner is a hole that touches the shell
in one point, which is valid, and never a shell that touches itself, which is not (OGC Simple Features).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

NO_OWNER = -1
"""Owner of a pixel that belongs to no component."""

_QUADRANTS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Row and column of the pixels around a vertex: upper left, lower left, upper right, lower right. In this
order the edge to the left of a vertex comes before the one to its right, as it does along a lattice line."""
_ADJACENT = ((0, 1), (0, 2))
"""Quadrants that share an edge; the other two such pairs are these as seen from the next vertex."""


@dataclass(frozen=True)
class Vertices:
    """Lattice vertices and the owners of the pixels around them; in row-major order unless stated."""

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    owner: NDArray[np.int32]
    """int32 (4, vertices): component of the pixel in each quadrant, or NO_OWNER."""


@dataclass(frozen=True)
class Rings:
    """Rings ordered by component, then by first vertex; so a component's shell comes before its holes.

    A ring starts at its first vertex in row-major order, holds only vertices where it turns, does not
    repeat the first one at the end, and has its component on the left when rows are drawn downwards.
    """

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    """int32 (vertices,): all rings, one after the other."""
    start: NDArray[np.int64]
    """int64 (rings + 1,): ring i is row[start[i]:start[i + 1]]."""
    component: NDArray[np.int32]
    """int32 (rings,)."""


def find_vertices(labels: NDArray[np.int32]) -> Vertices:
    """Find the vertices where a boundary turns, and all vertices on the frame that touch a labelled pixel.

    The vertices on the frame are kept even where the boundary goes straight, because it may turn there once
    the pixels beyond the frame are known.

    Args:
        labels: int32 (height + 2, width + 2): components from 1 on, 0 is none; the outermost pixels are 0.

    Returns:
        Vertices with 0 <= row <= height, 0 <= col <= width and owner = label - 1.
    """
    inside = labels > 0
    # An edge runs up or down from a vertex where the pixels to its left and right differ; the boundary turns
    # where only one of the two edges exists, or where both do but swap sides (two pixels touch at a corner).
    edge = inside[:, 1:] ^ inside[:, :-1]
    keep = edge[1:] ^ edge[:-1]
    keep |= edge[1:] & edge[:-1] & (inside[1:, 1:] ^ inside[:-1, 1:])
    for line, pixels in (
        (keep[0], inside[1]),
        (keep[-1], inside[-2]),
        (keep[:, 0], inside[:, 1]),
        (keep[:, -1], inside[:, -2]),
    ):
        line |= pixels[1:] | pixels[:-1]
    row, col = np.divmod(np.flatnonzero(keep), keep.shape[1])
    stride = labels.shape[1]
    corner, flat = row * stride + col, labels.reshape(-1)
    owner = np.stack([flat[corner + (down * stride + right)] for down, right in _QUADRANTS])
    return Vertices(row, col, owner - 1)


def select_owners(vertices: Vertices, selected: NDArray[np.bool_]) -> Vertices:
    """Keep the selected components only, and the vertices that they touch.

    Args:
        vertices: Of any components.
        selected: bool (components,).
    """
    # The last entry answers for NO_OWNER, which is -1.
    kept = np.append(selected, False)[vertices.owner]
    touched = kept.any(axis=0)
    owner = np.where(kept, vertices.owner, NO_OWNER)[:, touched]
    return Vertices(vertices.row[touched], vertices.col[touched], owner)


def join_vertices(vertices: Vertices, component_count: int) -> tuple[Vertices, NDArray[np.int32]]:
    """Fill in each other's missing owners at equal places, and unite components that share an edge there.

    Args:
        vertices: In any order, places repeated; each pixel is known to one of them only, or to equal owners.
        component_count: Components before they are united.

    Returns:
        The vertices with the owners as united, and the united component of each component,
        int32 (component_count,), numbered without gaps in no particular order.
    """
    width = int(vertices.col.max(initial=0)) + 1
    place, index = np.unique(vertices.row * width + vertices.col, return_inverse=True)
    owner = np.full((4, place.size), NO_OWNER, dtype=np.int32)
    for filled, known in zip(owner, vertices.owner, strict=True):
        filled[index[known >= 0]] = known[known >= 0]
    pairs = np.concatenate([owner[pair, :] for pair in _ADJACENT], axis=1)
    pairs = pairs[:, (pairs >= 0).all(axis=0)]
    links = np.ones(pairs.shape[1], dtype=bool)
    graph = csr_array((links, (pairs[0], pairs[1])), shape=(component_count, component_count))
    united = connected_components(graph, directed=False)[1].astype(np.int32)
    row, col = np.divmod(place, width)
    return Vertices(row, col, np.append(united, np.int32(NO_OWNER))[owner]), united


def link_rings(vertices: Vertices) -> Rings:
    """Link the turns of complete components to rings.

    Args:
        vertices: All vertices where a boundary turns; others are ignored.
    """
    owner = vertices.owner
    inside = owner >= 0
    pixels = inside.sum(axis=0, dtype=np.uint8)
    diagonal = (pixels == 2) & (inside[0] == inside[3])
    same = np.where(inside[0], owner[0] == owner[3], owner[1] == owner[2])
    around_pixel = inside & ((pixels == 1) | (diagonal & ~same))
    around_gap = ~inside & ((pixels == 3) | (diagonal & same))
    # A turn goes around the corner of one quadrant, so its edges run left or right and up or down from there.
    vertex, quadrant = np.divmod(np.flatnonzero((around_pixel | around_gap).T), 4)
    if not vertex.size:
        empty = np.zeros(0, dtype=np.int32)
        return Rings(empty, empty, np.zeros(1, dtype=np.int64), empty)
    row, col = vertices.row[vertex].astype(np.int32), vertices.col[vertex].astype(np.int32)
    pixel_turn = around_pixel[quadrant, vertex]
    component = np.where(pixel_turn, owner[quadrant, vertex], owner.max(axis=0)[vertex])
    # Every lattice line enters and leaves: its turns in order are the two ends of an edge, again and again.
    # That order is row-major already for the edges along rows, and column-major for those along columns.
    down = quadrant & 1
    order = np.argsort((col * (np.int64(row.max()) + 1) + row) * 2 + down).astype(np.int32)
    vertical = np.empty_like(order)
    vertical[order[0::2]], vertical[order[1::2]] = order[1::2], order[0::2]
    horizontal = np.arange(vertex.size, dtype=np.int32) ^ 1
    leaves_sideways = ((quadrant == 1) | (quadrant == 2)) == pixel_turn
    sequence, start = _walk_cycles(np.where(leaves_sideways, horizontal, vertical), component)
    return Rings(row[sequence], col[sequence], start, component[sequence[start[:-1]]])


def close_rings(parts: Sequence[Rings]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Bring rings of several sources into one order, the first vertex of each repeated at its end.

    Args:
        parts: All rings of a component are in one part; components below 0 are left out, those from 0 on are
            numbered without gaps.

    Returns:
        int64 (2, vertices), rows and columns; int64 (rings + 1,), where each ring starts among the vertices;
        int64 (components + 1,), where each component starts among the rings.
    """
    component = np.concatenate([rings.component for rings in parts])
    size = np.concatenate([np.diff(rings.start) for rings in parts])
    order = np.argsort(component, kind="stable")
    order = order[np.searchsorted(component[order], 0) :]
    begin, size = (np.cumsum(size) - size)[order], size[order]
    start = np.append(0, np.cumsum(size + 1))
    take = np.arange(start[-1]) + np.repeat(begin - start[:-1], size + 1)
    take[start[1:] - 1] = begin
    row = np.concatenate([rings.row for rings in parts])[take]
    col = np.concatenate([rings.col for rings in parts])[take]
    return (
        np.stack([row, col]).astype(np.int64),
        start,
        np.append(0, np.cumsum(np.bincount(component[order]))),
    )


def _walk_cycles(
    following: NDArray[np.int32], group: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Write out the cycles of a permutation, each from its least element on, ordered by group, then by that.

    Args:
        following: int32 (n,), the permutation.
        group: int32 (n,), equal along a cycle.

    Returns:
        int32 (n,) the elements in order; int64 (cycles + 1,) where each cycle starts, and n.
    """
    count = following.size
    everywhere = np.arange(count + 1, dtype=np.int32)
    # Edges of weight one, as float64: scipy would copy any other type.
    weight = np.ones(count)
    cycles, cycle = connected_components(
        csr_array((weight, following, everywhere), shape=(count, count)), connection="strong"
    )
    first = np.empty(cycles, dtype=np.int32)
    first[cycle[::-1]] = everywhere[-2::-1]
    by_group = np.lexsort((first, group[first]))
    first = first[by_group]
    # Each cycle is cut before its first element and continued by the next cycle: one path through all
    # elements, which a breadth-first walk follows in compiled code.
    last = np.empty_like(following)
    last[following] = everywhere[:-1]
    path = following.copy()
    path[last[first]] = np.roll(first, -1)
    walk = csr_array((weight, path, everywhere), shape=(count, count))
    sequence = breadth_first_order(walk, first[0], return_predecessors=False)
    return sequence, np.append(0, np.cumsum(np.bincount(cycle)[by_group]))
