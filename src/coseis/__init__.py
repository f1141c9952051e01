"""coseis maps the landslides that an earthquake set off, over the whole affected region."""

__version__ = "0.1.0"
