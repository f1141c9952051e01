"""coseis maps the landslides that an earthquake set off, over the whole affected region.

The names below, in the order of a map: an event, its scenes, a lazy cube, a model, probabilities, polygons;
then the whole job and training from settings, and a synthetic event to try all of it on.
They are imported when they are first used, so that `import coseis` loads neither TensorFlow nor GDAL.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coseis.config import load_config
    from coseis.cube import load_cube
    from coseis.evaluation import score
    from coseis.event import Event, read_event
    from coseis.learn.config import load_learn_config
    from coseis.learn.learning import learn_model
    from coseis.model import load_model
    from coseis.pipeline import map_event
    from coseis.predict import predict_proba
    from coseis.publish import write_tiles
    from coseis.search import search_items
    from coseis.simulate import simulate_event
    from coseis.store import write_zarr
    from coseis.training.trainer import train_model
    from coseis.vectorize import polygonize

_HOMES = {
    "Event": "event",
    "read_event": "event",
    "search_items": "search",
    "load_cube": "cube",
    "load_model": "model",
    "predict_proba": "predict",
    "write_zarr": "store",
    "polygonize": "vectorize",
    "write_tiles": "publish",
    "score": "evaluation.scores",
    "train_model": "training.trainer",
    "map_event": "pipeline",
    "load_config": "config",
    "learn_model": "learn.learning",
    "load_learn_config": "learn.config",
    "simulate_event": "simulate",
}

__all__ = [
    "Event",
    "learn_model",
    "load_config",
    "load_cube",
    "load_learn_config",
    "load_model",
    "map_event",
    "polygonize",
    "predict_proba",
    "read_event",
    "score",
    "search_items",
    "simulate_event",
    "train_model",
    "write_tiles",
    "write_zarr",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coseis' has no attribute {name!r}; public names: {', '.join(_HOMES)}")
    return getattr(import_module(f"coseis.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
