"""deploy/terraform: form, refused values, plans with their IAM JSON, checkov, a whole life against moto."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml

from checkov_report import checkov

FOLDER = Path(__file__).parents[1] / "deploy" / "terraform"
PLUGINS = "COSEIS_TF_PLUGINS"

Terraform = Callable[..., subprocess.CompletedProcess[str]]

# A value that cannot work for each thing that is checked, and what the message says of it.
REFUSED = [
    ("region", "us-west-2a", 'region is "us-west-2a"'),
    ("name", "Coseis", 'name is "Coseis"; expected 3 to 24 lower-case letters'),
    ("vpc_cidr", "10.0.0.0/24", 'vpc_cidr is "10.0.0.0/24"; expected an IPv4 range of /16'),
    ("zones", ["a"], 'zones is ["a"]; expected 2'),
    ("egress", "none", 'egress is "none"; expected nat, nat-per-zone or endpoints'),
    ("kubernetes_version", "1.35.2", 'kubernetes_version is "1.35.2"; expected a minor version'),
    ("api_allowed_cidrs", ["203.0.113.7"], 'is ["203.0.113.7"]; expected IPv4 ranges'),
    ("api_allowed_cidrs", ["0.0.0.0/0"], "which opens the API to the whole internet"),
    ("administrator_arns", ["operators"], 'is ["operators"]; expected ARNs of IAM roles or users'),
    ("log_retention_days", 8, "log_retention_days is 8; CloudWatch keeps"),
    ("system_instance_type", "g6.xlarge", 'system_instance_type is "g6.xlarge"'),
    ("cpu_nodes", {"instance_types": ["m7i.large", "m7i.xlarge"]}, "expected types of one size"),
    ("cpu_nodes", {"instance_types": ["m7g.large"]}, "expected x86 types without a GPU"),
    ("cpu_nodes", {"capacity_type": "spot"}, 'cpu_nodes.capacity_type is "spot"'),
    ("cpu_nodes", {"max_size": 0}, "cpu_nodes.max_size is 0; expected 1 to 450"),
    ("cpu_nodes", {"disk_gib": 8}, "cpu_nodes.disk_gib is 8; expected 30 or more"),
    ("gpu_nodes", {"instance_type": "m7i.large"}, "expected an x86 type with NVIDIA GPUs"),
    ("gpu_nodes", {"gpus": 3}, "gpu_nodes.gpus is 3; expected 1, 2, 4 or 8"),
    ("gpu_nodes", {"capacity_type": "ODCR"}, 'gpu_nodes.capacity_type is "ODCR"'),
    ("gpu_nodes", {"max_size": -1}, "gpu_nodes.max_size is -1; expected 0"),
    ("gpu_nodes", {"disk_gib": 20}, "gpu_nodes.disk_gib is 20; expected 60 or more"),
    ("bucket_name", "my.bucket", 'bucket_name is "my.bucket"'),
    ("noncurrent_days", 0, "noncurrent_days is 0; expected 1 or more"),
    ("namespace", "*", 'namespace is "*"; expected a DNS label'),
    ("service_account", "co?eis", 'service_account is "co?eis"; expected a DNS label'),
    ("input_buckets", ["s3://maps/x"], 'is ["s3://maps/x"]; expected names of buckets'),
    ("monthly_budget_usd", 0, "monthly_budget_usd is 0; expected 1 or more"),
    ("alarm_emails", [], "alarm_emails is []; expected 1 to 10 e-mail addresses"),
]
NEEDED = {"api_allowed_cidrs": ["203.0.113.7/32"], "alarm_emails": ["ops@example.org"]}

# moto 5.2 knows neither add-ons nor who hears of a budget, and makes no Auto Scaling group for a node group.
MOTO = """
provider "aws" {{
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true
  max_retries                 = 2

  endpoints {{
{endpoints}
  }}
}}

resource "aws_eks_addon" "node" {{
  for_each = {{}}
}}

resource "aws_eks_addon" "dns" {{
  count = 0
}}

resource "aws_budgets_budget" "monthly" {{
  count = 0
}}

resource "aws_autoscaling_group_tag" "pool" {{
  for_each = {{}}
}}
"""
# It forgets a cluster's access mode, makes up a key pair for nodes, and tags launch templates themselves:
# these and what depends on them are planned again.
MOTO_FORGETS = {
    "aws_eks_cluster", "aws_eks_node_group", "aws_launch_template",
    "aws_iam_openid_connect_provider.cluster", "aws_iam_role.service_account",
}  # fmt: skip
SERVICES = ("autoscaling", "ec2", "ecr", "eks", "iam", "kms", "logs", "s3", "s3control", "sts")


@pytest.fixture(scope="module")
def terraform(tmp_path_factory) -> Terraform:
    """Runs terraform in a folder; nothing that the user set up for it counts."""
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not installed, and no package registry has it")
    settings = tmp_path_factory.mktemp("terraform") / "terraformrc"
    settings.write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_"))}
    environment = kept | {
        "TF_CLI_CONFIG_FILE": str(settings),
        "TF_IN_AUTOMATION": "1",
        "CHECKPOINT_DISABLE": "1",
    }

    def run(folder: Path, *arguments: str, timeout_s: int = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], cwd=folder, env=environment, timeout=timeout_s,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def provided(terraform, tmp_path_factory) -> Path:
    """A copy of the folder, with the AWS provider."""
    plugins = os.environ.get(PLUGINS)
    if not plugins:
        pytest.skip(
            f"the AWS provider is not to be had from a package registry: set {PLUGINS} to a mirror folder"
        )
    folder = tmp_path_factory.mktemp("deploy") / "terraform"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars"))
    result = terraform(folder, "init", "-input=false", "-backend=false", f"-plugin-dir={plugins}")
    assert result.returncode == 0, result.stderr
    return folder


def test_format(terraform):
    result = terraform(FOLDER, "fmt", "-check", "-recursive", "-diff")
    assert result.returncode == 0, result.stdout


def test_validate(terraform, provided):
    result = terraform(provided, "validate", "-json")
    assert json.loads(result.stdout)["diagnostics"] == []


def test_plans_and_made_up_applies(terraform, provided):
    result = terraform(provided, "test", "-no-color", timeout_s=300)
    assert result.returncode == 0, result.stdout
    assert "0 failed" in result.stdout


@pytest.mark.parametrize(("variable", "value", "message"), REFUSED)
def test_value_is_refused(terraform, tmp_path, variable, value, message):
    # The variables alone are a configuration that needs no provider.
    shutil.copy(FOLDER / "variables.tf", tmp_path)
    (tmp_path / "it.tfvars.json").write_text(json.dumps(NEEDED | {variable: value}))
    result = terraform(tmp_path, "plan", "-no-color", "-input=false", "-var-file=it.tfvars.json")
    assert result.returncode == 1
    printed = " ".join(re.sub(r"[│╷╵]", " ", result.stderr).split())
    assert message in printed
    assert printed.count("Error:") == 1


def test_each_check_is_tried():
    checks = (FOLDER / "variables.tf").read_text().count("validation {")
    assert checks == len(REFUSED)


def test_settings_are_typed_and_described():
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', (FOLDER / "variables.tf").read_text(), re.M | re.S)
    assert len(blocks) > 20
    for name, block in blocks:
        assert re.search(r"^  description = \".+\.\"$", block, re.M), name
        assert re.search(r"^  type +=", block, re.M), name
    outputs = re.findall(r'^output "(\w+)" \{\n(.*?)^\}', (FOLDER / "outputs.tf").read_text(), re.M | re.S)
    for name, block in outputs:
        assert "description" in block, name


def test_readme_names_every_setting_that_it_shows():
    text = (FOLDER / "README.md").read_text()
    declared = set(re.findall(r'^variable "(\w+)"', (FOLDER / "variables.tf").read_text(), re.M))
    shown = {
        name
        for block in re.findall(r"```hcl\n(.*?)```", text, re.S)
        for name in re.findall(r"^(\w+) +=", block, re.M)
    }
    assert set(NEEDED) <= shown <= declared
    printed = set(re.findall(r"terraform output -raw (\w+)", text))
    assert printed <= set(re.findall(r'^output "(\w+)"', (FOLDER / "outputs.tf").read_text(), re.M))


def test_chart_takes_the_values():
    schema = FOLDER.parent / "helm" / "coseis" / "values.schema.json"
    values = yaml.safe_load((FOLDER / "tests" / "helm_values.yaml").read_text())
    # helm lays the chart's own values under them.
    defaults = yaml.safe_load((schema.parent / "values.yaml").read_text())
    merged = {key: default | values[key] if key in values else default for key, default in defaults.items()}
    assert set(values) <= set(defaults)
    jsonschema.validate(merged, json.loads(schema.read_text()))


def test_gpu_nodes_have_the_label_that_the_chart_looks_for():
    profile = yaml.safe_load((FOLDER.parent / "helm" / "coseis" / "profiles" / "gpu.yaml").read_text())
    affinity = profile["workers"]["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    for wanted in term["matchExpressions"]:
        [value] = wanted["values"]
        assert f'"{wanted["key"]}" = "{value}"' in (FOLDER / "nodes.tf").read_text()


def test_the_lock_file_may_be_kept_as_the_readme_says():
    ignored = subprocess.run(["git", "check-ignore", "-q", ".terraform.lock.hcl"], cwd=FOLDER, check=False)
    assert ignored.returncode == 1, "the README says to keep it"


def test_checkov_finds_nothing_and_skips_say_why():
    report = checkov("terraform", FOLDER)
    assert len(report["passed_checks"]) > 100
    for check in report["skipped_checks"]:
        assert len(check["check_result"]["suppress_comment"].split()) > 5, check["check_id"]


@pytest.fixture
def moto(tmp_path) -> Iterator[str]:
    """Address of a server that stands for AWS, in a process of its own: it needs AWS's managed policies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    with (
        (tmp_path / "moto.log").open("w") as log,
        subprocess.Popen(command, env=environment, stderr=log) as server,
    ):
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        assert server.poll() is None, (tmp_path / "moto.log").read_text()
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.mark.slow
@pytest.mark.integration
def test_whole_life(terraform, provided, moto, tmp_path):
    folder = tmp_path / "terraform"
    shutil.copytree(provided, folder, symlinks=True)
    endpoints = "\n".join(f'    {service} = "{moto}"' for service in SERVICES)
    (folder / "moto_override.tf").write_text(MOTO.format(endpoints=endpoints))
    (folder / "it.auto.tfvars.json").write_text(json.dumps(NEEDED | {"destroy_results": True}))
    options = ("-no-color", "-input=false", "-auto-approve")

    result = terraform(folder, "apply", *options, timeout_s=400)
    assert result.returncode == 0, result.stderr
    outputs = _outputs(terraform, folder)
    values = yaml.safe_load(outputs["helm_values"])
    client = _client(moto)
    assert (
        client("s3").get_bucket_versioning(Bucket=outputs["bucket_uri"].removeprefix("s3://"))["Status"]
        == "Enabled"
    )
    role = values["serviceAccount"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"] == role
    assert client("eks").list_nodegroups(clusterName="coseis")["nodegroups"] == ["cpu", "gpu", "system"]

    # What is there already is not touched again.
    result = terraform(folder, "plan", "-no-color", "-input=false", "-out=again", timeout_s=200)
    assert result.returncode == 0, result.stderr
    again = json.loads(terraform(folder, "show", "-json", "again").stdout)["resource_changes"]
    assert len(again) > 50
    changed = {
        change["address"].partition("[")[0] for change in again if change["change"]["actions"] != ["no-op"]
    }
    assert {name for name in changed if not {name, name.partition(".")[0]} & MOTO_FORGETS} == set()

    result = terraform(folder, "destroy", *options, timeout_s=400)
    assert result.returncode == 0, result.stderr
    assert client("eks").list_clusters()["clusters"] == []
    assert client("s3").list_buckets()["Buckets"] == []


def _outputs(terraform: Terraform, folder: Path) -> dict[str, Any]:
    printed = json.loads(terraform(folder, "output", "-json").stdout)
    return {name: output["value"] for name, output in printed.items()}


def _client(address: str) -> Callable[[str], Any]:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-west-2"}
    return lambda service: boto3.client(service, endpoint_url=address, **keys)
