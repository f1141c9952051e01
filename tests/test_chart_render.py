"""Every variant of the chart renders, with both helms to the same objects, and Kubernetes would take them."""

import json
import os
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from charts import (
    CHART,
    GOLDEN,
    PROFILES,
    VARIANTS,
    VERSIONS,
    Variant,
    golden_text,
    of_kind,
    pods_of,
    render,
    rendered,
    run_helm,
    value_files,
)
from coseis import __version__
from coseis.cluster import LOCAL_WORKERS

OLDEST, NEWEST = "1.29.0", "1.37.0"
"""Kubernetes: what the chart takes, and what there is a schema of."""
GOLDENS = sorted(GOLDEN.glob("*.yaml"))
CUSTOM = {"DaskCluster", "ServiceMonitor"}


def package_file(package: str, ending: str) -> Path:
    """A file of an installed package; in CI the package must be there."""
    try:
        files = distribution(package).files or ()
    except PackageNotFoundError:
        message = f"needs {package}: make .venv/dev"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    [found] = [file for file in files if str(file).endswith(ending)]
    return Path(str(found.locate()))


@cache
def schema_of(kind: str, api: str, version: str) -> Draft7Validator:
    """Of an object, strict: a key that Kubernetes would drop is an error."""
    group, _, number = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], number)))
    folder = package_file("kubernetes-validate", f"v{version}-local-strict/_definitions.json").parent
    return Draft7Validator(json.loads((folder / f"{name}.json").read_text()), registry=definitions(folder))


@cache
def definitions(folder: Path) -> Registry:
    """What the schemas of one version refer to, by the name that they have for it."""
    content = json.loads((folder / "_definitions.json").read_text())
    # Crawled once here, else anew for each object.
    return Registry().with_resource("/api/_definitions.json", DRAFT202012.create_resource(content)).crawl()


def errors_of(validator: Draft7Validator, object_: dict[str, Any]) -> list[str]:
    where = f"{object_['kind']}/{object_['metadata']['name']}"
    return [f"{where} {error.json_path}: {error.message}" for error in validator.iter_errors(object_)]


def strict(schema: Any) -> Any:
    """An OpenAPI schema of a custom resource as JSON schema, in which what would be dropped is an error."""
    if isinstance(schema, list):
        return [strict(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    if out.get("x-kubernetes-int-or-string") is True:
        out["type"] = ["integer", "string"]
    open_ = "x-kubernetes-preserve-unknown-fields" in out or "additionalProperties" in out
    # Without a type it is a property that is called so, or one arm of an anyOf.
    if isinstance(out.get("properties"), dict) and out.get("type") == "object" and not open_:
        out["additionalProperties"] = False
    return out


@cache
def dask_cluster_schema() -> Draft7Validator:
    crd = yaml.safe_load(
        package_file("dask-kubernetes", "dask-kubernetes-operator/crds/daskcluster.yaml").read_text()
    )
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    return Draft7Validator(schema)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_lint_is_strict(name, version, tmp_path):
    run_helm(version, "lint", "--strict", CHART, *value_files(VARIANTS[name], tmp_path))


def test_the_profiles_are_those_that_are_tested():
    assert {path.stem for path in (CHART / "profiles").iterdir()} == set(PROFILES)
    assert {profile for variant in VARIANTS.values() for profile in variant.profiles} == set(PROFILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_both_helms_render_the_same(name):
    assert golden_text(rendered(name, "3.17")) == golden_text(rendered(name, "4.3"))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *((name, NEWEST) for name in VARIANTS),
        *(pytest.param(path.stem, OLDEST, marks=pytest.mark.slow) for path in GOLDENS),
    ],
)
def test_kubernetes_takes_every_object(name, version):
    problems = []
    for object_ in rendered(name):
        if object_["kind"] in CUSTOM:
            continue
        problems += errors_of(schema_of(object_["kind"], object_["apiVersion"], version), object_)
    for pod in pods_of(rendered(name)):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.owner}, "spec": pod.spec}
        problems += errors_of(schema_of("Pod", "v1", version), whole)
    assert problems == []


@pytest.mark.parametrize("name", [name for name in VARIANTS if "operator" in name])
def test_the_operator_takes_the_dask_cluster(name):
    [cluster] = of_kind(rendered(name), "DaskCluster").values()
    assert errors_of(dask_cluster_schema(), cluster) == []


def test_the_schemas_find_what_is_wrong():
    """A check that passes everything would pass the chart too."""
    [cluster] = of_kind(rendered("operator-gpu"), "DaskCluster").values()
    broken = json.loads(json.dumps(cluster))
    broken["spec"]["worker"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = [1]
    broken["spec"]["worker"]["replicaCount"] = 3
    assert len(errors_of(dask_cluster_schema(), broken)) == 2
    job = json.loads(json.dumps(next(iter(of_kind(rendered("run"), "Job").values()))))
    job["spec"]["backoffLimits"] = 3
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsRot"] = True
    assert len(errors_of(schema_of("Job", "batch/v1", NEWEST), job)) == 2


@pytest.mark.parametrize("name", [path.stem for path in GOLDENS])
def test_the_golden_renders_are_these(name):
    expected = (GOLDEN / f"{name}.yaml").read_text()
    assert golden_text(rendered(name)) == expected, "looked at and right? python tests/charts.py"


def test_the_chart_is_of_this_version():
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_of_the_release_and_each_once(name):
    objects = rendered(name)
    keys = [(object_["kind"], object_["metadata"]["name"]) for object_ in objects]
    assert len(keys) == len(set(keys))
    for kind, of in keys:
        assert re.fullmatch(r"coseis[-a-z0-9]{0,57}", of), (kind, of)
    assert {object_["metadata"]["namespace"] for object_ in objects} == {"maps"}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_pod_mounts_is_there(name):
    """Secrets and ConfigMaps of the chart exist; others are those that were named in the values."""
    objects = rendered(name)
    there = {object_["metadata"]["name"] for object_ in objects if object_["kind"] in ("Secret", "ConfigMap")}
    given = {"dask-scheduler", "dask-worker", "dask-client", "bucket", "kube-root-ca.crt"}
    for pod in pods_of(objects):
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for volume in volumes.values():
            wanted = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name")
            assert wanted is None or wanted in there | given, (pod.owner, wanted)
        for container in pod.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys(), pod.owner
            paths = [word for word in container.get("command", ()) if word.startswith("/etc/coseis/scripts/")]
            for path in paths:
                assert (CHART / "files" / Path(path).name).is_file()


def test_another_run_is_another_job_and_the_same_is_not():
    """A Job cannot be changed in place; `helm upgrade` must not fail at it, nor begin anew what is done."""
    first, again = (of_kind(render(VARIANTS["run"]), "Job") for _ in range(2))
    assert first.keys() == again.keys()
    others = [
        {"job": VARIANTS["run"].values["job"] | {"attempt": 2}},
        {
            "job": {
                "config": VARIANTS["run"].values["job"]["config"]
                | {"terrain": {"dem": "https://example.org/dem"}}
            }
        },
        {"job": VARIANTS["run"].values["job"] | {"backoffLimit": 2}},
        {"job": VARIANTS["run"].values["job"], "image": {"tag": "0.2.0"}},
    ]
    names = {next(iter(first))} | {next(iter(of_kind(render(Variant(values)), "Job"))) for values in others}
    assert len(names) == 1 + len(others)
    scaled = render(Variant({"job": VARIANTS["run"].values["job"], "workers": {"replicas": 9}}))
    assert of_kind(scaled, "Job").keys() == first.keys()


def test_certificates_are_signed_for_the_scheduler_and_each_role_has_its_own():
    secrets = of_kind(rendered("run"), "Secret")
    assert set(secrets) == {"coseis-tls-scheduler", "coseis-tls-worker", "coseis-tls-client"}
    assert len({secret["data"]["ca.crt"] for secret in secrets.values()}) == 1
    for key in ("tls.crt", "tls.key"):
        assert len({secret["data"][key] for secret in secrets.values()}) == 3
    assert not of_kind(rendered("existing-secrets"), "Secret")
    assert not of_kind(rendered("parts-alone"), "Secret")


def test_workers_keep_freed_memory_as_local_ones_do():
    [worker] = [pod for pod in pods_of(rendered("run")) if pod.component == "worker"]
    environment = {entry["name"]: entry.get("value") for entry in worker.spec["containers"][0]["env"]}
    kept = {name.rsplit(".", 1)[1]: str(value) for name, value in LOCAL_WORKERS.items() if "MALLOC" in name}
    assert len(kept) == 3
    assert kept.items() <= environment.items()
