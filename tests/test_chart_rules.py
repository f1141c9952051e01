"""Rules over everything that the chart renders: Pod Security, GPUs, networks, rights, and how Jobs end."""

import ast
import ipaddress
from typing import Any

import pytest
import yaml

from charts import CHART, PROFILES, RUN, VARIANTS, Pod, Variant, of_kind, pods_of, render, rendered
from checkov_report import checkov
from coseis.errors import IncompleteError, InputRefusedError, UnreachableError, UsageError

METADATA = [ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("fd00:ec2::254")]
GPU = "nvidia.com/gpu"
FINAL = {UsageError.exit_code, InputRefusedError.exit_code, IncompleteError.exit_code}


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", ())}


def restricted_problems(spec: dict[str, Any]) -> list[str]:
    """What Pod Security `restricted` forbids, and what we forbid beyond it."""
    problems = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec["securityContext"]
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser", 0) < 10000:
        problems.append("runs as root, or as a user of the node")
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        problems.append("no seccomp profile")
    if spec.get("automountServiceAccountToken") is not False:
        problems.append("mounts a token")
    kinds = {"emptyDir", "secret", "configMap", "projected", "persistentVolumeClaim"}
    problems += [f"volume {v['name']}" for v in spec["volumes"] if len(kinds & v.keys()) != 1]
    problems += [
        f"{v['name']} without a size"
        for v in spec["volumes"]
        if "sizeLimit" not in v.get("emptyDir", {"sizeLimit": 1})
    ]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        security = container["securityContext"]
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            problems.append(f"{container['name']} may gain privileges")
        if security.get("capabilities") != {"drop": ["ALL"]}:
            problems.append(f"{container['name']} has capabilities")
        if security.get("readOnlyRootFilesystem") is not True:
            problems.append(f"{container['name']} may write its image")
        for amount in ("requests", "limits"):
            if not {"cpu", "memory"} <= container["resources"].get(amount, {}).keys():
                problems.append(f"{container['name']} has no {amount}")
        problems += [
            f"{container['name']} binds a port of the node"
            for p in container.get("ports", ())
            if "hostPort" in p
        ]
    return problems


@pytest.mark.parametrize("name", VARIANTS)
def test_pods_are_restricted(name):
    pods = list(pods_of(rendered(name)))
    assert pods
    assert {pod.owner: restricted_problems(pod.spec) for pod in pods if restricted_problems(pod.spec)} == {}


def test_the_rules_find_what_is_wrong():
    [pod] = [pod for pod in pods_of(render(VARIANTS["default"])) if pod.component == "worker"]
    pod.spec["securityContext"]["runAsUser"] = 0
    pod.spec["volumes"].append({"name": "node", "hostPath": {"path": "/"}})
    pod.spec["containers"][0]["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}
    del pod.spec["containers"][0]["resources"]["limits"]["cpu"]
    assert len(restricted_problems(pod.spec)) == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_only_workers_and_parts_have_gpus_and_each_has_one(name):
    wanted = "gpu" in name
    for pod in pods_of(rendered(name)):
        for container in pod.containers:
            resources, works = container["resources"], pod.component in ("worker", "part")
            amounts = {resources["limits"].get(GPU), resources["requests"].get(GPU)}
            assert amounts == ({"1"} if wanted and works else {None}), pod.owner
            assert container["image"].endswith("-gpu") == wanted, "one image for all"
        tolerated = {toleration.get("key") for toleration in pod.spec.get("tolerations", ())}
        assert (GPU in tolerated) == (wanted and works), pod.owner
    if wanted:
        worker = next(pod for pod in pods_of(rendered(name)) if pod.component in ("worker", "part"))
        assert GPU + ".present" in str(worker.spec["affinity"])


def selects(selector: dict[str, Any], labels: Any) -> bool:
    """A label selector, as far as the chart uses them."""
    matched = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        matched &= labels.get(expression["key"]) in expression["values"]
    return matched


def rules_of(objects: Any, pod: Pod, direction: str) -> list[dict[str, Any]]:
    """All that lets something through to (ingress) or from (egress) a pod."""
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], pod.labels)
    ]
    assert any(direction.title() in policy["policyTypes"] for policy in policies), "nothing is denied"
    return [rule for policy in policies for rule in policy.get(direction, ())]


def reaches(rule: dict[str, Any], address: Any) -> bool:
    """Whether an egress rule lets a pod speak to an address."""
    for peer in rule["to"]:
        block = peer.get("ipBlock")
        if block and address.version == ipaddress.ip_network(block["cidr"]).version:
            excepted = any(address in ipaddress.ip_network(part) for part in block.get("except", ()))
            if address in ipaddress.ip_network(block["cidr"]) and not excepted:
                return True
    return False


def links(objects: Any) -> set[tuple[str, str, int]]:
    """(from, to, port) between the release's own pods, where both ends allow it."""
    pods, found = list(pods_of(objects)), set()
    for source in pods:
        for target in pods:
            out = _ports(rules_of(objects, source, "egress"), "to", target)
            found |= {
                (source.component, target.component, port)
                for port in out & _ports(rules_of(objects, target, "ingress"), "from", source)
            }
    return found


def _ports(rules: list[dict[str, Any]], side: str, pod: Pod) -> set[int]:
    ports = set()
    for rule in rules:
        own = [peer for peer in rule[side] if "podSelector" in peer and "namespaceSelector" not in peer]
        if any(selects(peer["podSelector"], pod.labels) for peer in own):
            for port in rule["ports"]:
                ports |= set(range(port["port"], port.get("endPort", port["port"]) + 1))
    return ports


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "no-network-policy"])
def test_no_pod_reaches_the_metadata_service(name):
    objects = rendered(name)
    for pod in pods_of(objects):
        for rule in rules_of(objects, pod, "egress"):
            assert rule["to"], "a rule without a destination is a way to everything"
            assert rule["ports"]
            assert not any(reaches(rule, address) for address in METADATA), pod.owner


@pytest.mark.parametrize("name", ["run", "operator", "gpu-spot"])
def test_pods_of_a_cluster_reach_each_other_where_dask_needs_it_and_nowhere_else(name):
    assert links(rendered(name)) == {
        ("worker", "scheduler", 8786), ("map", "scheduler", 8786),
        ("scheduler", "worker", 8788), ("scheduler", "worker", 8789),
        ("worker", "worker", 8788), ("worker", "worker", 8789),
    }  # fmt: skip
    [worker] = [pod for pod in pods_of(rendered(name)) if pod.component == "worker"]
    ports = {port["containerPort"] for port in worker.spec["containers"][0]["ports"]}
    assert {8788, 8789} <= ports


def test_parts_reach_the_stores_and_each_other_not():
    objects = rendered("parts")
    store = ipaddress.ip_address("203.0.113.9")
    for pod in pods_of(objects):
        out = any(reaches(rule, store) for rule in rules_of(objects, pod, "egress"))
        assert out == (pod.component != "scheduler"), pod.owner
    assert not [link for link in links(objects) if {"part", "finish"} & set(link[:2])]


def test_doors_open_for_whom_they_are_named():
    [scheduler] = [pod for pod in pods_of(rendered("scientists")) if pod.component == "scheduler"]
    for name, peer in (
        ("scientists", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "notebooks"}}}),
        ("load-balancer", {"ipBlock": {"cidr": "192.0.2.0/24"}}),
    ):
        rules = rules_of(rendered(name), scheduler, "ingress")
        assert [[port["port"] for port in rule["ports"]] for rule in rules if peer in rule["from"]] == [
            [8786]
        ]
        assert str(peer) not in str(rules_of(rendered("default"), scheduler, "ingress"))
    prometheus = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
    for pod in pods_of(rendered("metrics")):
        rules = [rule for rule in rules_of(rendered("metrics"), pod, "ingress") if prometheus in rule["from"]]
        http = {port["name"]: port["containerPort"] for port in pod.spec["containers"][0]["ports"]}["http"]
        assert [rule["ports"] for rule in rules] == [[{"protocol": "TCP", "port": http}]]


def test_a_port_that_asks_for_no_password_says_no_more_than_it_must():
    def routes(name: str, component: str) -> list[str]:
        [pod] = [pod for pod in pods_of(rendered(name)) if pod.component == component]
        written = environment(pod.spec["containers"][0])[
            f"DASK_DISTRIBUTED__{component.upper()}__HTTP__ROUTES"
        ]
        return list(ast.literal_eval(written))

    quiet = ["distributed.http.health", "distributed.http.scheduler.prometheus"]
    assert routes("default", "scheduler") == quiet
    assert routes("default", "worker") == ["distributed.http.health", "distributed.http.worker.prometheus"]
    assert set(routes("dashboard", "scheduler")) > set(quiet)
    for name, option in (("default", "--no-dashboard"), ("dashboard", "--dashboard")):
        [pod] = [pod for pod in pods_of(rendered(name)) if pod.component == "scheduler"]
        assert option in pod.spec["containers"][0]["args"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_port_of_dask_is_encrypted(name):
    for pod in pods_of(rendered(name)):
        for container in pod.containers:
            variables = environment(container)
            speaks = (
                any("tls://" in str(word) for word in container.get("args", ()))
                or pod.component == "scheduler"
            )
            assert "tcp://" not in str(container)
            assert speaks == (variables.get("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION") == "true")
            if speaks:
                assert "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY" in variables


@pytest.mark.parametrize("name", [name for name in VARIANTS if "job" in VARIANTS[name].values])
def test_jobs_end_as_exit_codes_say(name):
    for job in of_kind(rendered(name), "Job").values():
        spec = job["spec"]
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        assert spec["podReplacementPolicy"] == "Failed"
        [container] = spec["template"]["spec"]["containers"]
        if container["name"] == "scale-down":
            continue
        indexed = spec.get("completionMode") == "Indexed"
        assert ("backoffLimitPerIndex" in spec) == indexed
        assert ("backoffLimit" in spec) != indexed
        ignore, fail, count = spec["podFailurePolicy"]["rules"]
        # First, so that a pod that was taken away is not judged by how it ended.
        assert ignore["action"] == "Ignore"
        assert ignore["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert fail["action"] == ("FailIndex" if indexed else "FailJob")
        assert fail["onExitCodes"]["containerName"] == container["name"]
        assert set(fail["onExitCodes"]["values"]) == FINAL
        assert count["action"] == "Count"
        assert count["onExitCodes"]["values"] == [UnreachableError.exit_code]
        if container["name"] != "finish":
            assert "--resume" in container["args"]
            annotation = spec["template"]["metadata"]["annotations"]["checksum/config"]
            assert annotation == job.get("metadata", {}).get("annotations", {}).get(
                "checksum/config", annotation
            )


def test_the_checksum_follows_the_settings():
    def checksum(values: dict[str, Any]) -> str:
        [job] = of_kind(render(Variant(values)), "Job").values()
        return str(job["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    other = RUN["config"] | {"output": {"out": "s3://maps/gorkha"}}
    base = checksum({"job": RUN})
    assert base != checksum({"job": {"config": other}})
    assert base != checksum({"job": RUN | {"files": {"area.geojson": "{}"}}})
    assert base == checksum({"job": RUN | {"backoffLimit": 1}})


def test_only_pods_that_wait_have_a_token_and_they_may_do_little():
    for name in VARIANTS:
        objects = rendered(name)
        for pod in pods_of(objects):
            for container in pod.containers:
                has = any(mount["name"] == "account" for mount in container["volumeMounts"])
                assert has == (container["name"] in ("await-parts", "scale-down")), (name, pod.owner)
        jobs = of_kind(objects, "Job").keys()
        for role in of_kind(objects, "Role").values():
            watch, *more = role["rules"]
            assert (watch["resources"], watch["verbs"]) == (["jobs"], ["get"])
            assert set(watch["resourceNames"]) < jobs
            for rule in more:
                assert rule["verbs"] == ["patch"]
                assert rule["resources"] in (["deployments/scale"], ["daskclusters/scale"])
                [scaled] = rule["resourceNames"]
                assert scaled in of_kind(objects, "Deployment") | of_kind(objects, "DaskCluster")
        assert not of_kind(objects, "ClusterRole")
        bound = {
            subject["name"]: binding["roleRef"]["name"]
            for binding in of_kind(objects, "RoleBinding").values()
            for subject in binding["subjects"]
        }
        assert set(bound.values()) == set(of_kind(objects, "Role"))
        accounts = {pod.spec["serviceAccountName"] for pod in pods_of(objects)}
        assert bound.keys() <= accounts


def test_finish_and_scale_down_follow_the_job_that_is_there():
    for name, component in (
        ("parts", "finish"),
        ("scale-down", "scale-down"),
        ("operator-gpu", "scale-down"),
    ):
        objects = rendered(name)
        [waiting] = [pod for pod in pods_of(objects) if pod.component == component]
        [container] = [c for c in waiting.containers if c["command"][-1].endswith("follow_job.py")]
        job, *scaled = container["args"]
        assert job in of_kind(objects, "Job")
        assert len(scaled) == (component == "scale-down")
        for path in scaled:
            _, _, group, version, _, namespace, kind, target, last = path.split("/")
            found = of_kind(objects, {"deployments": "Deployment", "daskclusters": "DaskCluster"}[kind])[
                target
            ]
            assert (found["apiVersion"], found["metadata"]["namespace"], last) == (
                f"{group}/{version}", namespace, "scale",
            )  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_workers_have_time_to_end_what_they_are_at(name):
    for pod in pods_of(rendered(name)):
        if pod.component == "worker":
            command = pod.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert pod.spec["terminationGracePeriodSeconds"] >= int(command[-1]) + 30
    if "spot" in name:
        # The notice of a spot machine is two minutes.
        assert all(
            pod.spec["terminationGracePeriodSeconds"] < 120
            for pod in pods_of(rendered(name))
            if pod.component != "scale-down"
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_hooks_name_no_variables(name):
    """Kubernetes puts values into command and args alone; a hook would get the letters $(NAME)."""
    for pod in pods_of(rendered(name)):
        for container in pod.containers:
            hooks = [*container.get("lifecycle", {}).values()]
            hooks += [container[key] for key in container if key.endswith("Probe")]
            assert "$(" not in str(hooks), pod.owner


def test_the_scheduler_is_not_drained_under_a_run():
    [budget] = of_kind(rendered("run"), "PodDisruptionBudget").values()
    [scheduler] = [pod for pod in pods_of(rendered("run")) if pod.component == "scheduler"]
    assert budget["spec"]["minAvailable"] == 1
    assert selects(budget["spec"]["selector"], scheduler.labels)
    assert not of_kind(rendered("placed"), "PodDisruptionBudget")


def test_a_service_finds_its_pods():
    for name in VARIANTS:
        objects = rendered(name)
        pods = [pod for pod in pods_of(objects) if not pod.owner.startswith("DaskCluster")]
        for service in of_kind(objects, "Service").values():
            found = [pod for pod in pods if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
            for port in service["spec"]["ports"]:
                named = [
                    p
                    for pod in found
                    for c in pod.containers
                    for p in c.get("ports", ())
                    if p["name"] == port["targetPort"]
                ]
                assert named, (name, service["metadata"]["name"])


def test_an_identity_of_the_cloud_reaches_the_pods():
    [account] = of_kind(rendered("irsa"), "ServiceAccount").values()
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    assert {pod.spec["serviceAccountName"] for pod in pods_of(rendered("irsa"))} == {
        account["metadata"]["name"]
    }
    agent = ipaddress.ip_address("169.254.170.23")
    for name, wanted in (("pod-identity", True), ("run", False)):
        [worker] = [pod for pod in pods_of(rendered(name)) if pod.component == "worker"]
        assert any(reaches(rule, agent) for rule in rules_of(rendered(name), worker, "egress")) == wanted
    for pod in pods_of(rendered("existing-secrets")):
        wanted = [{"secretRef": {"name": "bucket"}}] if pod.component != "scheduler" else None
        assert pod.spec["containers"][0].get("envFrom") == wanted
    assert of_kind(rendered("given-account"), "ServiceAccount").keys() == set()


def test_a_service_monitor_finds_the_metrics():
    [monitor] = of_kind(rendered("metrics"), "ServiceMonitor").values()
    services = of_kind(rendered("metrics"), "Service").values()
    [found] = [s for s in services if selects(monitor["spec"]["selector"], s["metadata"]["labels"])]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.slow
def test_checkov_finds_nothing_where_the_image_is_named_by_its_content(tmp_path):
    for name in ("run", "parts", "operator-gpu", "scale-down"):
        values, digest = VARIANTS[name].values, {"digest": f"sha256:{'0' * 64}"}
        objects = render(Variant(values | {"image": digest}, VARIANTS[name].profiles))
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
    # Whether a node asks the registry again: what has this digest is the same wherever it comes from.
    results = checkov("kubernetes", tmp_path, "--skip-check", "CKV_K8S_15")
    assert len(results["passed_checks"]) > 1000


def test_every_profile_says_what_it_is_for():
    for name in PROFILES:
        assert (CHART / "profiles" / f"{name}.yaml").read_text().startswith("# ")
