"""From heights on a grid, the paths that water takes over it, how much flows, and how it cuts the ground."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

IntArray = NDArray[np.int64]

CONCAVITY = 0.45
"""Exponent of drainage area in the stream-power law (Whipple and Tucker, 1999, doi:10.1029/1999JB900120)."""


def drain(height_m: NDArray[np.float64], outlet: NDArray[np.bool_], *, cell_m: float) -> "Drainage":
    """Route water from every cell to an outlet, over the lowest pass where it would stand in a pit.

    The minimum spanning tree of the 8-neighbour graph, weighted by the higher end of each edge, holds exactly
    the paths of priority-flood (Barnes et al., 2014, doi:10.1016/j.cageo.2013.04.024) and runs in compiled
    code; ties go to the steeper edge.

    Args:
        height_m: float64 (y, x), metres.
        outlet: bool (y, x), at least one True: where water leaves.
        cell_m: side of a cell, metres.
    """
    ny, nx = height_m.shape
    index = np.arange(height_m.size).reshape(ny, nx)
    starts, stops, weights = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, ny - dy), slice(max(0, -dx), nx - max(0, dx)))
        there = (slice(dy, ny), slice(max(0, dx), nx + min(0, dx)))
        a, b = height_m[here], height_m[there]
        starts.append(index[here].ravel())
        stops.append(index[there].ravel())
        weights.append((np.maximum(a, b) - 1e-6 * np.abs(a - b) / np.hypot(dy, dx)).ravel())
    weight = np.concatenate(weights)
    weight += 2 - weight.min()  # csgraph takes 0 for "no edge"; 1 is left for the edges to the sink
    outlets = np.flatnonzero(outlet)
    sink = height_m.size
    row = np.concatenate([*starts, outlets])
    column = np.concatenate([*stops, np.full(outlets.size, sink)])
    graph = sparse.csr_matrix(
        (np.append(weight, np.ones(outlets.size)), (row, column)), shape=(sink + 1, sink + 1)
    )
    tree = csgraph.minimum_spanning_tree(graph)
    order, parent = csgraph.breadth_first_order(tree, sink, directed=False)

    cells = order[1:].astype(np.int64)
    place = np.empty(sink + 1, np.int64)
    place[cells] = np.arange(cells.size)
    place[sink] = -1
    receiver = place[parent[cells]]
    levels = [0, outlets.size]
    while levels[-1] < cells.size:
        levels.append(int(np.searchsorted(receiver, levels[-1])))  # receivers never decrease along the order
    below = np.where(receiver < 0, cells, cells[receiver])
    steps = np.hypot(cells // nx - below // nx, cells % nx - below % nx)
    return Drainage(cells, receiver, np.array(levels), steps * cell_m, cell_m)


@dataclass(frozen=True)
class Drainage:
    """Flow paths over a grid: every cell and the cell that it drains to, from the outlets upstream."""

    cells: IntArray
    """Flat indices of all cells, outlets first, every cell after the one that it drains to."""
    receiver: IntArray
    """For each place in `cells`, the place in `cells` of the cell that it drains to; -1 for outlets."""
    levels: IntArray
    """Bounds in `cells` of the cells that are the same number of steps away from an outlet."""
    distance_m: NDArray[np.float64]
    """Distance to the receiver, metres; 0 for outlets."""
    cell_m: float
    """Side of a cell, metres."""

    def area_m2(self) -> NDArray[np.float64]:
        """Drainage area of each place in `cells`, square metres, the cell itself included."""
        area = np.full(self.cells.size, self.cell_m**2)
        for start, stop in self._bounds()[:0:-1]:
            first = int(self.receiver[start])  # receivers are sorted: a short bincount beats np.add.at
            arriving = np.bincount(self.receiver[start:stop] - first, area[start:stop])
            area[first : first + arriving.size] += arriving
        return area

    def erode(
        self,
        height_m: NDArray[np.float64],
        rate: float,
        source_area_m2: float,
        greatest: NDArray[np.floating],
    ) -> None:
        """Solve one implicit step of the stream-power law downstream to upstream, in place.

        Implicit, so any step is stable (Braun and Willett, 2013, doi:10.1016/j.geomorph.2012.10.008); we
        sweep whole levels of the flow tree instead of single cells, and cap the slope as landsliding does.

        Args:
            height_m: float64 (y, x), height above the plain, metres; changed in place.
            rate: uplift of this step, metres; at steady state the slope is `greatest` at `source_area_m2`.
            source_area_m2: drainage area at which channels begin.
            greatest: floating (y, x), greatest slope, metres per metre.
        """
        heights = height_m.ravel()[self.cells]
        distance = np.maximum(self.distance_m, self.cell_m)
        limit = greatest.ravel()[self.cells]
        erodibility = rate / limit * (self.area_m2() / source_area_m2) ** CONCAVITY / distance
        for start, stop in self._bounds()[1:]:
            below = heights[self.receiver[start:stop]]
            f = erodibility[start:stop]
            carved = (heights[start:stop] + f * below) / (1 + f)
            heights[start:stop] = np.minimum(carved, below + limit[start:stop] * distance[start:stop])
        height_m.ravel()[self.cells] = heights

    def _bounds(self) -> list[tuple[int, int]]:
        return list(zip(self.levels[:-1].tolist(), self.levels[1:].tolist(), strict=True))
