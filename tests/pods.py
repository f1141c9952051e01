"""Pods of the rendered chart go in, local processes come out, by the chart's own commands and environment.

    node = Node(folder, objects, image=make_image(folder / "image"), secrets={"bucket": {...}})
    running = node.start(pod, "worker", name="coseis-workers-0")

A process has the environment of its container and no other, the files of its volumes, and the rights of
user 10001: none. What a node would translate is translated, nothing else: mount paths are folders, container
ports are free ones, and a Service's address is the port behind it.
"""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import coseis
from charts import Object, Pod, of_kind
from forked import until

FAKE_NETWORK = str(Path(__file__).parent / "fake_network.py")
USER = 10001
"""Of the chart's securityContext; `restricted` forbids the chart any other rights."""
RIGHTS = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all",
    "--bounding-set=-all", "--no-new-privs",
)  # fmt: skip
ENDS_S = 300.0


def rights() -> tuple[str, ...]:
    """What a command begins with to run as user 10001; nothing where only oneself can be had."""
    return RIGHTS if os.geteuid() == 0 and shutil.which("setpriv") else ()


def make_image(folder: Path) -> dict[str, str]:
    """The environment of something like the image: Python, Dask, and coseis with the tests' own network.

    Python is linked there file by file, because the one that runs the tests may lie where only root may look.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, binaries = Path(sys.base_prefix), folder / "bin"
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*")
    shutil.copytree(base / "lib" / name, folder / "lib" / name, copy_function=_link, ignore=ignored)
    for library in (base / "lib").glob("libpython*.so*"):
        _link(library, folder / "lib" / library.name)
    binaries.mkdir()
    _link(base / "bin" / name, binaries / "python")
    for command, words in {"dask": "-m dask", "coseis": FAKE_NETWORK}.items():
        (binaries / command).write_text(f'#!/bin/sh\nexec python {words} "$@"\n')
        (binaries / command).chmod(0o755)
    packages = sysconfig.get_path("purelib")
    return {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "PYTHONPATH": f"{Path(coseis.__file__).resolve().parents[1]}:{packages}",
        # It knows its library by the place that it was built for.
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or a file of another user
        shutil.copy2(source, target)


@dataclass
class Running:
    """A container of a pod, as a process in a session of its own."""

    pod: Pod
    container: Object
    process: subprocess.Popen[bytes]
    log: Path
    ports: Mapping[str, int]
    """Container ports by their names, as they are on this machine."""
    environment: Mapping[str, str]
    replaced: Mapping[str, str]

    def said(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        """Exit code."""
        try:
            return self.process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.pod.owner} does not end; it said {self.said()!r}")

    def kill(self) -> None:
        """As a node that is gone: all processes at once, without a word."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def become_ready(self) -> None:
        """Waits for the readiness probe; a container that has ended fails the test."""
        port = self.ports[self.container["readinessProbe"]["tcpSocket"]["port"]]

        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(ready, f"{self.pod.owner} to be ready")

    def is_live(self) -> bool:
        """What the liveness probe says."""
        probe = self.container["livenessProbe"]
        if "tcpSocket" in probe:
            with socket.socket() as asking:
                return asking.connect_ex(("127.0.0.1", self.ports[probe["tcpSocket"]["port"]])) == 0
        address = f"http://127.0.0.1:{self.ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        with urllib.request.urlopen(address, timeout=probe["timeoutSeconds"]) as answer:
            return answer.status == 200


class Node:
    """A machine for the pods of one release."""

    def __init__(
        self,
        folder: Path,
        objects: Sequence[Object],
        *,
        image: Mapping[str, str],
        secrets: Mapping[str, Mapping[str, str]],
    ) -> None:
        """`image` is the environment that it gives its processes."""
        self._folder, self._objects, self._secrets, self._image = folder, objects, secrets, image
        self._rights = rights()
        self._services: dict[str, str] = {}
        self._started: list[Running] = []

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._started:
            running.kill()

    def start(self, pod: Pod, container: str, *, name: str, index: int | None = None) -> Running:
        """One container of a pod; its init containers are started like it, before it."""
        [spec] = [one for one in pod.containers if one["name"] == container]
        home = self._folder / name
        ports = {one["name"]: (one["containerPort"], _free_port()) for one in spec.get("ports", ())}
        replaced = {str(old): str(new) for old, new in ports.values()} | self._services
        for mount in spec["volumeMounts"]:
            volume = next(one for one in pod.spec["volumes"] if one["name"] == mount["name"])
            replaced[mount["mountPath"]] = str(self._fill(volume, home / volume["name"]))
        environment = self._environment(spec, {"name": name, "index": str(index)})
        environment = {key: _replace(value, replaced) for key, value in environment.items()}
        words = [_expand(word, environment) for word in (*spec["command"], *spec.get("args", ()))]
        log = home / f"{container}.log"
        running = Running(
            pod,
            spec,
            self._execute([_replace(word, replaced) for word in words], environment, log, cwd=_replace(
                spec.get("workingDir", "/"), replaced
            )),
            log,
            {key: new for key, (_, new) in ports.items()},
            environment,
            replaced,
        )  # fmt: skip
        self._started.append(running)
        self._publish(pod, running)
        return running

    def hook(self, running: Running) -> subprocess.CompletedProcess[str]:
        """The preStop command beside a running container: Kubernetes puts no variables into it."""
        words = running.container["lifecycle"]["preStop"]["exec"]["command"]
        return subprocess.run(
            [*self._rights, *(_replace(word, running.replaced) for word in words)],
            env=running.environment, cwd="/", capture_output=True, text=True, check=False, timeout=ENDS_S,
        )  # fmt: skip

    def _execute(
        self, words: list[str], environment: Mapping[str, str], log: Path, *, cwd: str
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                [*self._rights, *words], env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, start_new_session=True,
            )  # fmt: skip

    def _environment(self, container: Object, facts: Mapping[str, str]) -> dict[str, str]:
        """Of the image, then of Secrets, then of the container, each of which may name those before it."""
        environment = dict(self._image)
        for source in container.get("envFrom", ()):
            environment |= self._secrets[source["secretRef"]["name"]]
        fields = {
            "metadata.name": facts["name"],
            "metadata.annotations['batch.kubernetes.io/job-completion-index']": facts["index"],
            "status.podIP": "127.0.0.1",
        }
        for entry in container.get("env", ()):
            value = (
                entry["value"] if "value" in entry else fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            )
            environment[entry["name"]] = _expand(value, environment)
        return environment

    def _fill(self, volume: Mapping[str, Any], folder: Path) -> Path:
        """A volume as a folder: what a Secret or ConfigMap holds may be read, an emptyDir may be written."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(0o755)
        if "emptyDir" in volume:
            self._own(folder, 0o700)
            return folder
        kind, key = ("Secret", "secretName") if "secret" in volume else ("ConfigMap", "name")
        content = of_kind(self._objects, kind)[volume[kind[0].lower() + kind[1:]][key]]["data"]
        for name, text in content.items():
            path = folder / name
            path.write_bytes(base64.b64decode(text) if kind == "Secret" else text.encode())
            self._own(path, 0o440)
        return folder

    def _own(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self._rights:
            os.chown(path, USER if path.is_dir() else 0, USER)

    def _publish(self, pod: Pod, running: Running) -> None:
        """Services of the chart that find this pod lead to it from now on."""
        for name, service in of_kind(self._objects, "Service").items():
            if service["spec"]["selector"].items() <= pod.labels.items():
                for port in service["spec"]["ports"]:
                    self._services[f"{name}:{port['port']}"] = (
                        f"localhost:{running.ports[port['targetPort']]}"
                    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _expand(word: str, environment: Mapping[str, str]) -> str:
    """$(NAME) as Kubernetes has it: what is not set stays as it is written."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), word)


def _replace(word: str, replaced: Mapping[str, str]) -> str:
    """Whole paths, ports and addresses; each place once, the longest first."""
    keys = "|".join(re.escape(key) for key in sorted(replaced, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({keys})(?![\w.-])", lambda found: replaced[found[1]], word) if keys else word
