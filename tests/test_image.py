"""deploy/docker without a container engine: linted, its steps carried out, its entry point run.

What no test does: install all of requirements/ (3.3 GB); `image_build.py`, called by hand, does.
"""

import mmap
import os
import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from charts import CHART, pods_of, rendered
from coseis import __version__
from image_build import DOCKERFILE, ROOT, TOOLS, Builder, Image, can_build, steps, texts

HADOLINT = Path(sys.executable).parent / "hadolint"
TARGETS = {"cpu": ("cluster",), "gpu": ("cluster", "gpu")}
"""Extras of the package that each image has."""
SLIM = {
    "ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0",
    "libresolv.so.2", "librt.so.1", "libstdc++.so.6", "libutil.so.1", "libz.so.1",
}  # fmt: skip
"""Libraries of glibc, GCC and zlib: in every Debian, however slim."""
BY_DEBIAN = {"libexpat1": {"libexpat.so.1"}}


def locked(target: str) -> dict[str, tuple[str, int]]:
    """Package to its version and the number of its hashes, of the file that an image installs."""
    [copied] = [text for text in texts("COPY", f"{target}-environment") if text.startswith("requirements/")]
    entries = re.split(r"^(?=\S)", (ROOT / copied.split()[0]).read_text(), flags=re.M)
    pinned = [re.match(r"([\w.-]+)==(\S+)", entry) for entry in entries if entry.strip()]
    assert all(pinned), "an entry without a version"
    return {
        canonicalize_name(match[1]): (match[2], match.string.count("--hash=sha256:"))
        for match in pinned
        if match
    }


def test_the_linter_finds_nothing_and_what_it_ignores_says_why():
    if not HADOLINT.exists():
        message = "needs hadolint: make .venv/dev"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    done = subprocess.run([HADOLINT, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    lines = DOCKERFILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            assert len(lines[number - 1].lstrip("# ").split()) > 5, "an ignore without its reason"


def test_versions_agree():
    assert texts("ARG", "runtime")[0] == f"VERSION={__version__}"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
    # The tags that the chart asks for are those that the file says to build.
    for target, variant in (("cpu", "run"), ("gpu", "gpu")):
        [image] = {container["image"] for pod in pods_of(rendered(variant)) for container in pod.containers}
        assert f"--target {target} -t {image} ." in DOCKERFILE.read_text()


def test_the_base_is_one_and_is_named_by_its_content():
    froms = texts("FROM")
    outside = {text.split()[0] for text in froms} - {step.stage for step in steps()}
    [base] = outside
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    [labels] = texts("LABEL")
    assert f'base.name="docker.io/library/{base.split("@")[0]}"' in labels
    assert froms[-1].endswith(" AS cpu"), "a build without --target makes the last stage"


def test_the_image_is_what_the_chart_expects():
    assert texts("USER") == ["10001:10001"]
    pods = [pod for name in ("run", "parts") for pod in pods_of(rendered(name))]
    assert {pod.spec["securityContext"]["runAsUser"] for pod in pods} == {10001}
    assert {container["command"][0] for pod in pods for container in pod.containers} == {
        "coseis", "dask", "python",
    }  # fmt: skip
    assert texts("ENV", "runtime")[0].startswith("PATH=/opt/coseis/bin:")


def test_the_context_is_what_is_copied():
    copied = {word for text in texts("COPY") if "--from" not in text for word in text.split()[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_the_package_needs_is_locked_with_its_hashes(target):
    packages = locked(target)
    assert all(hashes > 0 for _, hashes in packages.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    wanted += project["optional-dependencies"]["gpu"] if target == "gpu" else []
    for text in wanted:
        requirement = Requirement(text)
        version, _ = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text
    shared = locked("cpu").keys() & locked("gpu").keys()
    assert {name: locked("cpu")[name] for name in shared} == {name: locked("gpu")[name] for name in shared}


def needed_libraries(path: Path) -> set[str]:
    """What an ELF file (64 bit, little-endian) asks the dynamic linker for; nothing of other files."""
    with path.open("rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
            (start,) = struct.unpack_from("<Q", elf, 0x28)
            size, count = struct.unpack_from("<HH", elf, 0x3A)
            headers = [struct.unpack_from("<IIQQQQII", elf, start + n * size) for n in range(count)]
            names = set()
            for _, kind, _, _, offset, length, link, _ in headers:
                if kind == 6:  # SHT_DYNAMIC, its strings in the section that it links to
                    strings = headers[link][4]
                    for place in range(offset, offset + length, 16):
                        tag, value = struct.unpack_from("<qQ", elf, place)
                        if tag == 1:  # DT_NEEDED
                            begin = strings + value
                            names.add(elf[begin : elf.find(b"\0", begin)].decode())
            return names


@pytest.mark.skipif(sys.platform != "linux", reason="wheels of other systems name other libraries")
def test_debian_packages_are_those_that_the_wheels_need():
    """The slim image lacks a library that GDAL in rasterio's wheel wants: every import of it would fail."""
    brought, needed = set(), set()
    for name in locked("cpu"):
        try:
            files = distribution(name).files or ()
        except PackageNotFoundError:
            continue  # of another platform or Python
        for file in files:
            if ".so" in file.name:
                brought.add(file.name)
                needed |= needed_libraries(Path(str(file.locate())))
    assert len(brought) > 100
    [apt] = [text for text in texts("RUN") if "apt-get install" in text]
    installed = re.search(r"--no-install-recommends ([\w .+-]+?) &&", apt)
    assert installed
    packages = installed[1].split()
    assert needed - brought - SLIM == set().union(*(BY_DEBIAN[package] for package in packages))


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    """Both targets, by all their own steps, with the few packages that the steps themselves use."""
    if not can_build():
        message = f"needs root and {', '.join(TOOLS)}: apt-get install mmdebstrap, on Debian"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="coseis-image-") as made:
        few = Path(made, "requirements.txt")
        _write_requirements(few)
        replaced = {f"requirements/{name}.txt": few for name in ("cluster", "gpu")}
        builder = Builder(Path(made), replaced=replaced)
        yield {target: builder.build(target) for target in TARGETS}


def _write_requirements(path: Path) -> None:
    """Of cluster.txt what builds the package, with its hashes: seconds instead of minutes."""
    text = (ROOT / "requirements" / "cluster.txt").read_text()
    names = ("editables", "hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
    path.write_text("".join(re.findall(rf"^(?:{'|'.join(names)})==.*?(?=^\S|\Z)", text, re.M | re.S)))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_steps_leave_the_package_and_nothing_that_builds(images, target):
    root = images[target].root
    binaries = {path.name for path in (root / "opt/coseis/bin").iterdir()}
    assert "coseis" in binaries
    assert not {name for name in binaries if name.startswith(("pip", "hatch"))}
    [packages] = (root / "opt/coseis/lib").glob("python*/site-packages")
    left = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    # What runs needs packaging, too; setuptools comes with a venv of Python 3.11 and TensorFlow asks for it.
    assert left == {"coseis", "packaging", "setuptools"}
    assert (packages / "coseis" / "models").is_dir()
    assert not list(packages.glob("coseis/**/tests"))
    assert not list((root / "usr/local").glob("lib/python*/site-packages/*.dist-info")), "pip of the base"
    assert not list((root / "var/lib/apt/lists").iterdir())
    assert not (root / "src").exists(), "sources are only where the environment is made"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cpu", ("--help",)),
        ("cpu", ("--version",)),
        ("cpu", ("simulate", "event")),
        *((target, ("doctor",)) for target in TARGETS),
    ],
)
def test_the_entry_point_runs_with_no_rights_in_a_tree_that_it_cannot_write(images, target, words):
    image = images[target]
    more = ("--size-km", "0.5") if words[0] == "simulate" else ()
    packages = Path(sysconfig.get_path("purelib"))
    done = image.run(*image.entry_point, *words, *more, packages=packages)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    expected = {"--help": "coseis demo OUT", "--version": __version__, "doctor": "shipped model"}
    assert expected.get(words[0], "landslides on") in done.stdout
    assert "broken" not in done.stdout


@pytest.mark.slow
def test_what_it_runs_in_is_that_tree(images):
    """Else the test above could not fail."""
    said = images["cpu"].run("sh", "-c", "id -u; touch /opt/coseis/x; touch /tmp/x && echo written")
    assert said.stdout.split() == ["10001", "written"]
    assert "Read-only file system" in said.stderr
