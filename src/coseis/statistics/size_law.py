"""The three-parameter inverse gamma law of landslide areas: density, survival, draws.

    p(A) = 1 / (a G(rho)) * (a / (A - s))^(rho + 1) * exp(-a / (A - s)),   A > s

Convention: `rho` is the exponent of the cumulative tail, P(>A) ~ A^-rho. The density falls as A^-(rho + 1):
Malamud's rho of 1.40 is the "2.40" of the literature, and what a fit to log-binned densities gives.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammainc, gammaincinv, gammaln

from coseis.statistics.areas import FloatArray
from coseis.types import Value

FAR = 1e-6
"""Below it the incomplete gamma function is its first term, to 1e-6; that of very small numbers
underflows."""


class SizeLaw(Value):
    """One law of landslide areas.

    Reference: Malamud et al. (2004), equation 3, doi:10.1002/esp.1064; areas here are in m2, there in km2.
    """

    rho: float
    """Exponent of the cumulative tail; that of the density is larger by one."""
    a_m2: float
    """Scale: the area at which the power law begins to hold."""
    s_m2: float
    """Shift: the law begins there, at a negative area in all inventories that Malamud fitted."""

    @property
    def tail_exponent(self) -> float:
        """Of the density, rho + 1."""
        return self.rho + 1

    @property
    def rollover_m2(self) -> float:
        """The most frequent area: the mode of the density."""
        return self.a_m2 / (self.rho + 1) + self.s_m2

    @property
    def mean_m2(self) -> float:
        """Mean area; infinite where rho is at most 1."""
        return self.a_m2 / (self.rho - 1) + self.s_m2 if self.rho > 1 else float("inf")

    def log_density(self, area_m2: FloatArray) -> FloatArray:
        """Logarithm of the density, 1/m2, in the shape of the areas; -inf at and below the shift."""
        x = np.asarray(area_m2, dtype=np.float64) - self.s_m2
        inside = np.maximum(x, np.finfo(float).tiny)
        with np.errstate(over="ignore"):
            log = (
                self.rho * np.log(self.a_m2)
                - gammaln(self.rho)
                - (self.rho + 1) * np.log(inside)
                - self.a_m2 / inside
            )
        return np.where(x > 0, log, -np.inf)

    def log_survival(self, area_m2: FloatArray) -> FloatArray:
        """Logarithm of the share of landslides that are larger, in the shape of the areas."""
        x = np.asarray(area_m2, dtype=np.float64) - self.s_m2
        z = self.a_m2 / np.maximum(x, np.finfo(float).tiny * max(1.0, self.a_m2))
        return np.where(x > 0, log_lower_gamma(self.rho, z), 0.0)

    def survival(self, area_m2: FloatArray) -> FloatArray:
        """Share of landslides that are larger, 0-1."""
        share: FloatArray = np.exp(self.log_survival(area_m2))
        return share

    def draw(self, random: np.random.Generator, count: int, *, least_m2: float = -np.inf) -> FloatArray:
        """Areas of so many landslides above a least area, float64 (count,), by inversion."""
        whole = float(self.survival(np.array(least_m2)))
        # random() is in [0, 1): 1 minus it is never the 0 that stands for an infinite area.
        z = gammaincinv(self.rho, whole * (1 - random.random(count)))
        # The last bit of an inverse may lie below the least area that it stands for.
        areas: FloatArray = np.maximum(self.s_m2 + self.a_m2 / z, least_m2)
        return areas


MALAMUD = SizeLaw(rho=1.40, a_m2=1280.0, s_m2=-132.0)
"""Of the inventories of Northridge, Umbria and Guatemala; rollover 401 m2, mean 3,068 m2 (a = 1.28e-3 km2, s
= -1.32e-4 km2)."""


def log_lower_gamma(rho: float, z: FloatArray) -> FloatArray:
    """Logarithm of the regularized lower incomplete gamma function, exact also where that underflows."""
    with np.errstate(divide="ignore"):
        near: FloatArray = np.log(gammainc(rho, np.maximum(z, FAR)))
        first = rho * np.log(z) - gammaln(rho + 1)
        # Where it underflows z is far below rho, and the series nearly a geometric one.
        series = first - z - np.log1p(-np.minimum(z, rho) / (rho + 1))
        return np.where(z < FAR, first, np.where(np.isneginf(near), series, near))
