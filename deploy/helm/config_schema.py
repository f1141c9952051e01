"""The settings of `coseis map` go into the chart's values.schema.json, as what job.config may hold.

    python deploy/helm/config_schema.py

So that `helm install` refuses a misspelt setting before a pod starts. Settings that the chart decides itself
(the scheduler, the part, to resume) are left out, and so refused.
"""

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from coseis.config import MapConfig, stage_options

SCHEMA = Path(__file__).parent / "coseis" / "values.schema.json"
DECIDED = {
    ("output", "resume"),
    *(("cluster", name) for name in ("scheduler", "workers", "threads", "part")),
    *(("cluster", name) for name in ("tls_ca", "tls_cert", "tls_key", "plain_scheduler")),
}
"""Settings that the chart gives, as options or in the environment."""
STAGES = {
    "search": "Which scenes are used: catalog, place and time.",
    "model": "Which network, and how exactly it computes.",
    "output": "What is written, and where.",
    "cluster": "In which order the work is done.",
    "terrain": "What the ground is like under the landslides; nothing of it without a DEM.",
    "exposure": "What lies around the landslides, in files that the pods hold.",
    "coregistration": "How the scenes before the event lie on those after it.",
}


def config_schema() -> dict[str, Any]:
    """JSON schema of job.config: empty, or the sections of a YAML file for `coseis map`."""
    stages: dict[str, dict[str, Any]] = {
        stage: {
            "description": STAGES[stage],
            "type": "object",
            "additionalProperties": False,
            "properties": {},
        }
        for stage in MapConfig.model_fields
    }
    for stage, name, field in stage_options():
        if (stage, name) in DECIDED:
            continue
        stages[stage]["properties"][name] = {"description": field.description, **_form(field.annotation)}
        if field.is_required():
            stages[stage].setdefault("required", []).append(name)
    return {
        "description": "Settings of the run, as in a YAML file for coseis map; empty: no run. Paths are "
        "names of job.files. The chart itself adds resume, the scheduler and the part.",
        "type": "object",
        "additionalProperties": False,
        "properties": stages,
        # As an implication, so that what is missing is named rather than "neither of two schemas matches".
        "if": {"minProperties": 1},
        "then": {"required": [stage for stage, schema in stages.items() if "required" in schema]},
    }


def _form(annotation: Any) -> dict[str, Any]:
    """Type of a value as a person may write it in YAML."""
    words, kinds = _members(annotation)
    if "array" in kinds:
        # No numbers: YAML reads the item id 20180911_011530_1001 as one, and loses it.
        return {"type": ["string", "array"], "items": {"type": "string"}}
    if words and kinds:
        return {"anyOf": [{"enum": words}, {"type": sorted(kinds)}]}
    return {"enum": words} if words else {"type": sorted(kinds)}


def _members(annotation: Any) -> tuple[list[str], set[str]]:
    """Words of the Literals of a type, and the JSON types of the others."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation)), set()
    if get_origin(annotation) is tuple:
        return [], {"array"}
    if get_origin(annotation) in (Union, UnionType):
        members = [_members(member) for member in get_args(annotation) if member is not type(None)]
        return [word for words, _ in members for word in words], {
            kind for _, kinds in members for kind in kinds
        }
    if arguments := get_args(annotation):  # Annotated
        return _members(arguments[0])
    return [], {{bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]}


def main() -> None:
    """Rewrites the file."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["job"]["properties"]["config"] = config_schema()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
