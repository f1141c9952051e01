import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coseis.simulate.drainage import drain

CELL_M = 24.0


@given(seed=st.integers(0, 10_000), ny=st.integers(3, 14), nx=st.integers(3, 14))
@settings(max_examples=60, deadline=None)
def test_every_cell_drains_to_an_outlet_once(seed, ny, nx):
    rng = np.random.default_rng(seed)
    height = rng.normal(size=(ny, nx))
    outlet = rng.random((ny, nx)) < 0.15
    outlet.flat[rng.integers(height.size)] = True
    drainage = drain(height, outlet, cell_m=CELL_M)

    assert sorted(drainage.cells.tolist()) == list(range(height.size))
    is_outlet = drainage.receiver < 0
    assert set(drainage.cells[is_outlet]) == set(np.flatnonzero(outlet))
    assert (drainage.receiver < np.arange(height.size)).all()  # downstream cells come first
    assert drainage.distance_m[~is_outlet].max(initial=CELL_M) <= CELL_M * np.sqrt(2) + 1e-9
    # All water arrives: the areas of the outlets add up to the map.
    assert drainage.area_m2()[is_outlet].sum() == pytest.approx(height.size * CELL_M**2)


def test_drainage_area_equals_walking_downstream_from_every_cell():
    rng = np.random.default_rng(1)
    height = rng.normal(size=(9, 11))
    outlet = np.zeros((9, 11), bool)
    outlet[4, 0] = True
    drainage = drain(height, outlet, cell_m=CELL_M)
    expected = np.zeros(height.size)
    for place in range(height.size):
        while place >= 0:
            expected[place] += CELL_M**2
            place = int(drainage.receiver[place])
    assert drainage.area_m2() == pytest.approx(expected)


def test_water_takes_the_steepest_way_on_a_slope_and_the_lowest_pass_out_of_a_pit():
    plane = np.add.outer(np.arange(5.0), np.zeros(5)) + 1e-3 * np.arange(5.0)
    outlet = np.zeros((5, 5), bool)
    outlet[0] = True
    drainage = drain(plane, outlet, cell_m=CELL_M)
    middle = int(np.flatnonzero(drainage.cells == 2 * 5 + 2)[0])
    assert drainage.cells[drainage.receiver[middle]] == 1 * 5 + 2

    wall = np.array([[9.0, 9, 9, 9, 9], [9, 1, 1, 4, 0], [9, 1, 1, 9, 9], [9, 9, 9, 9, 9]])
    outlet = np.zeros(wall.shape, bool)
    outlet[1, 4] = True
    drainage = drain(wall, outlet, cell_m=CELL_M)
    passed = drainage.area_m2()[np.flatnonzero(drainage.cells == 1 * 5 + 3)[0]]
    assert passed >= 5 * CELL_M**2  # the pit's four cells and the pass itself


def test_erosion_leaves_no_slope_above_the_limit_along_the_flow():
    rng = np.random.default_rng(2)
    height = 100 * rng.random((30, 30))
    outlet = np.zeros(height.shape, bool)
    outlet[:, 0] = True
    drainage = drain(height, outlet, cell_m=CELL_M)
    drainage.erode(height, 60.0, 5000.0, np.full(height.shape, 0.5))
    flat = height.ravel()[drainage.cells]
    flowing = drainage.receiver >= 0
    drop = flat[flowing] - flat[drainage.receiver[flowing]]
    assert (drop <= 0.5 * drainage.distance_m[flowing] + 1e-6).all()
