"""An inventory goes in, a GeoPackage to judge it in QGIS comes out.

Triggers in the file note the time of each change in UTC, call a changed outline redrawn, and give new
polygons ids: so it is whatever program edits it. `statements` reads it back.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from coseis.edits import ACCEPT, ADDED, EDIT_COLUMNS, NEW_ID, REDRAWN, REJECT, Edits, outline_digest, standing
from coseis.errors import InputRefusedError, UsageError
from coseis.qgis_style import verdict_style

LAYER = "landslides"
FILLED_IN = ("verdict", "editor", "edited_at", "note")
OUTLINE = "outline"
"""Column: digest of the outline as it was written, by which one that was changed is told."""

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
_FINISH = f"""
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
  f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
  update_time DATETIME DEFAULT CURRENT_TIMESTAMP);
INSERT INTO gpkg_contents (table_name, data_type, identifier)
  VALUES ('layer_styles', 'attributes', 'layer_styles');
CREATE INDEX {LAYER}_id ON {LAYER} (id);
CREATE TRIGGER {LAYER}_changed AFTER UPDATE OF verdict, note, geom ON {LAYER}
WHEN NEW.edited_at IS OLD.edited_at
  AND (OLD.verdict IS NOT NEW.verdict OR OLD.note IS NOT NEW.note OR OLD.geom IS NOT NEW.geom)
BEGIN
  UPDATE {LAYER} SET edited_at = {_NOW},
    verdict = CASE WHEN OLD.geom IS NOT NEW.geom AND (NEW.verdict IS NULL OR NEW.verdict IN ('', '{ACCEPT}'))
      THEN '{REDRAWN}' ELSE NEW.verdict END
  WHERE fid = NEW.fid;
END;
CREATE TRIGGER {LAYER}_added AFTER INSERT ON {LAYER}
BEGIN
  UPDATE {LAYER} SET edited_at = {_NOW}, {OUTLINE} = NULL,
    verdict = CASE WHEN NEW.verdict = '{REJECT}' THEN '{REJECT}' ELSE '{ADDED}' END,
    id = CASE WHEN coalesce(NEW.id, '') = ''
      OR EXISTS (SELECT 1 FROM {LAYER} WHERE id = NEW.id AND fid <> NEW.fid)
      THEN '{NEW_ID}' || lower(hex(randomblob(16))) ELSE NEW.id END
  WHERE fid = NEW.fid;
END;
"""


def write_edit_file(path: Path, inventory: gpd.GeoDataFrame, known: Edits | None) -> None:
    """Writes what a mapper judges: the inventory, and what was rejected before, with its style.

    Args:
        path: A file that does not exist yet: one that does may hold somebody's work.
        inventory: As the run publishes it.
        known: What was merged before.

    Raises:
        UsageError: no .gpkg, or the file exists.
        InputRefusedError: it cannot be written.
    """
    if path.suffix.lower() != ".gpkg":
        raise UsageError(f"{path} is no name of a GeoPackage; expected one that ends in .gpkg")
    if path.exists():
        raise UsageError(f"{path} exists, and may hold edits; merge it first, or choose another name")
    table = _with_verdicts(inventory, known)
    try:
        pyogrio.write_dataframe(table, path, driver="GPKG", layer=LAYER, geometry_type="MultiPolygon",
                                promote_to_multi=True)  # fmt: skip
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(_FINISH)
            columns = [name for name in table.columns if name != table.geometry.name]
            open_columns = ("verdict", "editor", "note")
            style = verdict_style(columns, open_columns=open_columns, hidden=[OUTLINE])
            # Empty texts, as QGIS asks for them: a missing one is not found.
            connection.execute(
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
                "styleName, styleQML, styleSLD, useAsDefault, description, owner, update_time) "
                f"VALUES ('', '', ?, 'geom', 'verdicts', ?, '', 1, 'Verdicts of mappers', '', {_NOW})",
                (LAYER, style),
            )
    except (DataSourceError, DataLayerError, FeatureError, OSError, sqlite3.Error) as error:
        path.unlink(missing_ok=True)
        raise InputRefusedError(f"{path} cannot be written ({error})") from error


def _with_verdicts(inventory: gpd.GeoDataFrame, known: Edits | None) -> gpd.GeoDataFrame:
    """The inventory with the columns that a mapper fills in before its own; what was rejected last."""
    table = inventory.drop(columns=[name for name in EDIT_COLUMNS if name in inventory])
    if known is not None:
        last = standing(known.records)
        rejected = last[last["verdict"] == REJECT]
        rows = gpd.GeoDataFrame({"id": rejected["id"]}, geometry=rejected.geometry.to_numpy(), crs=table.crs)
        table = pd.concat([table, rows], ignore_index=True) if len(rows) else table
        said = last.set_index("id").reindex(table["id"])
        filled = {name: said[name].to_numpy(object) for name in FILLED_IN}
    else:
        filled = {name: np.full(len(table), None, object) for name in FILLED_IN}
    columns: dict[str, Any] = {"id": table["id"].to_numpy(object)}
    columns |= {name: pd.array(filled[name], dtype="string") for name in FILLED_IN}
    columns["edited_at"] = pd.to_datetime(
        pd.Series(filled["edited_at"], dtype="string"), utc=True, format="ISO8601"
    )
    others = table.drop(columns=["id", table.geometry.name])
    columns |= {name: others[name].to_numpy() for name in others.columns}
    columns[OUTLINE] = [outline_digest(shape) for shape in table.geometry]
    return gpd.GeoDataFrame(pd.DataFrame(columns), geometry=table.geometry.to_numpy(), crs=table.crs)
