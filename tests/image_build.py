"""A Dockerfile goes in, an image's file tree comes out, without a container engine; needs root and Debian.

    python tests/image_build.py cpu FOLDER        # all of requirements/cluster.txt: 3.3 GB
    python tests/image_build.py cpu FOLDER coseis doctor

Each stage is a folder, each RUN a command in a chroot. Instead of Docker's python image it starts from
Debian's own Python of the same minor version, with a venv in /usr/local: the same places and names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
PYTHON = Path("/usr/local")
"""Where the python image has its own."""
TOOLS = ("mmdebstrap", "unshare", "chroot", "setpriv")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
USER = 10001


class Step(NamedTuple):
    """An instruction of the Dockerfile."""

    stage: str
    word: str
    text: str


@cache
def steps() -> tuple[Step, ...]:
    """In their order; continued lines are one."""
    stage, found = "", []
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        if word:
            found.append(Step(stage, word, rest))
    return tuple(found)


def texts(word: str, stage: str | None = None) -> list[str]:
    """What stands behind this word, in one stage or in all."""
    return [step.text for step in steps() if step.word == word and stage in (None, step.stage)]


def can_build() -> bool:
    """Whether this machine has the rights and the tools."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in TOOLS)


class Image(NamedTuple):
    """A stage that was carried out."""

    root: Path
    environment: Mapping[str, str]
    entry_point: Sequence[str]

    def run(self, *words: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command in a container of it: user 10001 with no rights, nothing to be written but an empty /tmp.

        `packages` is a folder of this machine whose Python packages it may import beside its own.
        """
        mounts = ["mount --rbind . .", 'cd "$PWD"', "mount -t proc proc proc", "mount --rbind /dev dev"]
        environment = dict(self.environment)
        if packages:
            (self.root / "host").mkdir(exist_ok=True)
            mounts.append(f"mount --rbind {packages} host")
            environment["PYTHONPATH"] = "/host"
        mounts += ["mount -o remount,ro,bind .", "mount -t tmpfs -o mode=1777 tmpfs tmp"]
        rights = (
            f"setpriv --reuid={USER} --regid={USER} --clear-groups --inh-caps=-all --bounding-set=-all "
            "--no-new-privs"
        )
        enter = f'exec chroot . {rights} env --chdir=/tmp "$@"'
        return subprocess.run(
            ["unshare", "--mount", "sh", "-euc", "; ".join([*mounts, enter]), "sh", *words],
            cwd=self.root, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


class Builder:
    """Carries out the stages that a target needs, each once."""

    def __init__(self, folder: Path, *, replaced: Mapping[str, Path] | None = None) -> None:
        """`replaced` are files that are copied instead of those of the repository, by their names there."""
        self._folder, self._replaced = folder, replaced or {}
        self._stages: dict[str, Image] = {}

    def build(self, stage: str) -> Image:
        """Raises RuntimeError with what was said when a step fails."""
        if stage in self._stages:
            return self._stages[stage]
        [begin] = [text.split()[0] for text in texts("FROM") if text.endswith(f" AS {stage}")]
        known = {step.stage for step in steps()}
        before = self.build(begin) if begin in known else self._base()
        root = self._folder / stage
        _execute(["cp", "-a", "--reflink=auto", str(before.root), str(root)])
        environment, entry_point = dict(before.environment), before.entry_point
        workdir = Path("/")
        for _, word, text in (step for step in steps() if step.stage == stage):
            if word == "RUN":
                _execute(["chroot", str(root), "sh", "-euc", text], environment | _network())
            elif word == "COPY":
                self._copy(text, root, workdir)
            elif word == "WORKDIR":
                workdir = Path(text)
                _inside(root, workdir).mkdir(parents=True, exist_ok=True)
            elif word == "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", text):
                    environment[name] = value.replace("$PATH", environment["PATH"])
            elif word == "ENTRYPOINT":
                entry_point = json.loads(text)
            elif word not in ("FROM", "ARG", "LABEL", "USER", "CMD"):
                raise RuntimeError(f"{word} is an instruction that is not carried out here")
        self._stages[stage] = Image(root, environment, entry_point)
        return self._stages[stage]

    def _base(self) -> Image:
        """Debian of the release that the base image names."""
        root = self._folder / "base"
        [release] = {text.split("@")[0].rpartition("-")[2] for text in texts("FROM") if "@" in text}
        if not root.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            packages = "--include=python3-venv,ca-certificates"
            _execute(["mmdebstrap", "--quiet", "--variant=apt", packages, release, str(root)])
            shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
            if BUNDLE.exists():
                shutil.copy(BUNDLE, _inside(root, BUNDLE))
            _execute(["chroot", str(root), "python3", "-m", "venv", str(PYTHON)])
        return Image(root, {"PATH": f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, ())

    def _copy(self, text: str, root: Path, workdir: Path) -> None:
        """COPY: of a folder what is in it, of the repository or of another stage."""
        option, words = re.match(r"(?:--from=(\S+) )?(.+)", text).groups()  # type: ignore[union-attr]
        *names, to = words.split()
        target = _inside(root, workdir / to)
        for name in names:
            source = (
                _inside(self.build(option).root, Path(name))
                if option
                else self._replaced.get(name, ROOT / name)
            )
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(source, target / source.name if to.endswith("/") else target)


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _network() -> dict[str, str]:
    """How this machine reaches the registries."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower().endswith("_proxy")
    }


def _execute(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        words, env=environment and dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(words)[:200]} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )


if __name__ == "__main__":
    target, folder, *command = sys.argv[1:]
    image = Builder(Path(folder)).build(target)
    size = sum(path.lstat().st_size for path in image.root.rglob("*") if path.is_file())
    print(f"{image.root}: {size / 1e9:.2f} GB")
    if command:
        ran = image.run(*command)
        print(ran.stdout + ran.stderr)
        sys.exit(ran.returncode)
