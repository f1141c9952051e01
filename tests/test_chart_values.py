"""What cannot work together fails with its remedy, and what the schema takes is what coseis takes."""

import json
import re
from typing import Any

import pytest
import yaml

from charts import (
    CHART,
    NOTEBOOKS,
    PROMETHEUS,
    RUN,
    SECRETS,
    VERSIONS,
    ChartError,
    Variant,
    of_kind,
    render,
    run_helm,
)
from config_schema import DECIDED, SCHEMA, config_schema
from coseis.config import load_config, stage_options

PARTS = RUN | {"mode": "parts"}


def run_with(**stages: dict[str, Any]) -> dict[str, Any]:
    """Values of a run of which some settings are others."""
    config = {stage: RUN["config"].get(stage, {}) | changes for stage, changes in stages.items()}
    return {"job": {"config": RUN["config"] | config}}


REFUSED = {
    "no cluster": (
        {"cluster": {"enabled": False}, "job": RUN},
        "job.mode cluster without a cluster; set cluster.enabled: true, or job.mode: parts",
    ),
    "operator without cluster": (
        {"cluster": {"enabled": False, "operator": True}},
        "cluster.operator without cluster.enabled",
    ),
    "too few workers": (
        {"workers": {"replicas": 1}, "job": RUN | {"waitForWorkers": {"count": 2}}},
        "job.waitForWorkers.count is 2, but workers.replicas 1: .* lower the first or raise the second",
    ),
    "scale parts": ({"job": PARTS | {"scaleDown": True}}, "set job.scaleDown: false"),
    "parallel parts": (
        {"job": PARTS | {"parts": 2, "parallelism": 3}},
        "job.parallelism is 3, but there are 2 parts; lower it, or raise job.parts",
    ),
    "grace": (
        {"workers": {"terminationGracePeriodSeconds": 60, "chunkSeconds": 100}},
        r"terminationGracePeriodSeconds is 60: .*chunkSeconds \(100\).* raise the first to at least 130",
    ),
    "gpus by hand": (
        {"workers": {"resources": {"limits": {"memory": "8Gi", "nvidia.com/gpu": 2}}}},
        "workers.resources.limits names nvidia.com/gpu; set workers.gpu: true instead",
    ),
    "one secret": ({"tls": {"secrets": {"worker": "mine"}}}, "tls.secrets names some of .*; name all three"),
    "credentials": ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "looks like a credential.* credentials.secret"),
    "planet's key": ({"env": {"PL_API_KEY": "x"}}, "env.PL_API_KEY looks like a credential"),
    "open to all": (
        {"scientists": {"enabled": True, "type": "LoadBalancer"}},
        "would be open to the internet; name the networks",
    ),
    "everybody": (
        {"scientists": {"enabled": True, "type": "LoadBalancer", "sourceRanges": ["0.0.0.0/0"]}},
        "holds 0.0.0.0/0, which is everybody",
    ),
    "nobody": ({"scientists": {"enabled": True}}, "would let nobody in; .* scientists.from"),
    "scientists alone": (
        {"cluster": {"enabled": False}, "scientists": {"enabled": True, "from": [NOTEBOOKS]}},
        "scientists.enabled without a cluster",
    ),
    "metrics alone": (
        {"cluster": {"enabled": False}, "metrics": {"enabled": True, "from": [PROMETHEUS]}},
        "metrics.enabled without a cluster",
    ),
    "no prometheus": ({"metrics": {"enabled": True}}, "nobody in; name Prometheus's .* metrics.from"),
    "open dashboard": (
        {"dashboard": {"enabled": True}, "networkPolicy": {"enabled": False}},
        "asks nobody for a password; keep the NetworkPolicy",
    ),
    "lost output": (
        run_with(output={"out": "/data/iburi"}),
        r"output.out is /data/iburi, which is gone with its pod; give s3://, .* volume.claim",
    ),
    "output without claim": (run_with(output={"out": "/maps/iburi"}), "which is gone with its pod"),
    "area nowhere": (
        run_with(search={"aoi": "shapes/area.geojson"}),
        r"search.aoi is shapes/area.geojson, which no pod has; .* "
        r"--set-file job.files.area\\.geojson=shapes/area.geojson",
    ),
    "catalog nowhere": (run_with(search={"catalog": "a.json"}), "search.catalog is a.json, which no pod"),
    "no time": (
        {"job": {"config": {"search": {"catalog": "https://e.org"}, "output": {"out": "s3://b/x"}}}},
        "needs aoi and event_time, or event",
    ),
    "large files": (
        {"job": RUN | {"files": {"area.geojson": "x" * 900_001}}},
        "job.files are 900001 bytes, but a ConfigMap takes 1 MiB; simplify the area",
    ),
    "own name": ({"job": RUN | {"files": {"map.yaml": "x"}}}, "must not hold map.yaml"),
    "files alone": ({"job": {"files": {"area.geojson": "{}"}}}, "job.files without job.config"),
    # By the schema:
    "typo": ({"worker": {"replicas": 2}}, "worker"),
    "typo below": ({"workers": {"replica": 2}}, "replica"),
    "unknown setting": (run_with(search={"cataloge": "x"}), "cataloge"),
    "chart's own setting": (run_with(output={"resume": True}), "resume"),
    "no catalog": ({"job": {"config": {"search": {}, "output": {"out": "s3://b/x"}}}}, "catalog"),
    "no output": ({"job": {"config": {"search": {"catalog": "https://e.org"}}}}, "output"),
    "unquoted item": (run_with(search={"include": [20180911_011530_1001]}), "string"),
    "mode": ({"job": {"mode": "both"}}, "mode"),
    "digest": ({"image": {"digest": "0" * 64}}, "digest"),
}  # fmt: skip
BLOCKS = [
    "169.254.169.254/32", "169.0.0.0/8", "128.0.0.0/1", "0.0.0.0/1", "fd00:ec2::/32", "fc00::/7", "fe80::/10",
    "10.0.0.0/0",
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_remedy(name, version):
    values, expected = REFUSED[name]
    with pytest.raises(ChartError) as refused:
        render(Variant(values), version)
    assert re.search(expected, str(refused.value)), refused.value


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("to", ["egress", "apiServer"])
def test_address_blocks_that_may_hold_the_metadata_service_are_refused(block, to):
    with pytest.raises(ChartError, match="may hold the instance metadata service"):
        render(Variant({"networkPolicy": {to: {"cidrs": [block]}}}))


def test_every_value_has_a_description_and_a_default_that_fits():
    schema, values = json.loads(SCHEMA.read_text()), yaml.safe_load((CHART / "values.yaml").read_text())
    free = {"requests", "limits"}

    def look(schema: dict[str, Any], value: Any, path: str) -> None:
        assert len(schema.get("description", "")) > 10, path
        properties = schema.get("properties")
        if properties is not None:
            assert path.rsplit(".", 1)[-1] in free or schema["additionalProperties"] is False, path
            for key, below in properties.items():
                there = value.get(key) if isinstance(value, dict) else None
                look(below, there, f"{path}.{key}")
        if isinstance(value, dict) and properties:
            assert value.keys() <= properties.keys(), path

    look(schema, values, "values")
    declared = set(schema["properties"]) - {"global"}
    assert declared == set(values)
    for section in declared:
        properties = schema["properties"][section].get("properties")
        assert properties is None or set(properties) == set(values[section]), section


def test_the_schema_of_a_run_is_that_of_coseis_map():
    written = json.loads(SCHEMA.read_text())["properties"]["job"]["properties"]["config"]
    assert written == config_schema(), "run: python deploy/helm/config_schema.py"
    offered = {
        (stage, name) for stage, schema in written["properties"].items() for name in schema["properties"]
    }
    assert offered == {(stage, name) for stage, name, _ in stage_options()} - DECIDED


@pytest.mark.parametrize("version", VERSIONS)
def test_coseis_reads_the_settings_as_they_were_meant(version, tmp_path):
    """Through YAML, JSON and a template: times keep their zone, numbers and words stay what they are."""
    written = """
job:
  config:
    search:
      catalog: https://example.org/stac
      collection: [PSScene, "another, one"]
      aoi: 141.84,42.63,142.14,42.89
      event_time: 2018-09-05T18:08:00Z
      include: ["20180911_011530_1001"]
      max_cloud: 12.5
      allow_missing_pre: true
    model: {core: 1024}
    output: {out: "s3://maps/iburi", min_area: 2500000, threshold: 0.56, publish_pixels: "yes"}
    terrain: {dem: "https://example.org/dem", min_slope: 5}
"""
    path = tmp_path / "values.yaml"
    path.write_text(written)
    text = run_helm(version, "template", "coseis", CHART, f"--values={path}")
    maps = of_kind([document for document in yaml.safe_load_all(text) if document], "ConfigMap")
    (tmp_path / "map.yaml").write_text(maps["coseis-run"]["data"]["map.yaml"])
    config = load_config(tmp_path / "map.yaml", {})
    assert config.search.event_time == "2018-09-05T18:08:00Z"
    assert config.search.collection == ("PSScene", "another, one")
    assert config.search.include == ("20180911_011530_1001",)
    assert config.search.max_cloud == 12.5
    assert config.search.allow_missing_pre
    assert config.model.core == 1024
    assert (config.output.min_area, config.output.threshold) == (2.5e6, 0.56)
    assert config.output.publish_pixels == "yes"
    assert config.terrain.min_slope == 5


def test_secrets_named_by_the_user_are_the_ones_that_are_used():
    objects = render(Variant({"tls": {"secrets": SECRETS}, "job": RUN}))
    text = json.dumps(objects)
    assert all(f'"secretName": "{name}"' in text for name in SECRETS.values())
    assert "coseis-tls" not in text
