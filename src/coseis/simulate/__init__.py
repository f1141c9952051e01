"""A synthetic earthquake: a seed and a size go in, a STAC catalog of scenes and the exact truth come out."""

from coseis.simulate.simulator import SimulatedEvent, simulate_arrays, simulate_event

__all__ = ["SimulatedEvent", "simulate_arrays", "simulate_event"]
