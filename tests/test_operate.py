"""docs/operate.md: its figures are those of the benchmarks, and what it names is there."""

import json
import math
import re
from pathlib import Path

import yaml

from charts import CHART, PROFILES
from coseis.cli import INTERRUPTED
from coseis.config import load_config
from coseis.errors import IncompleteError, InputRefusedError, UnreachableError, UsageError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operate.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_exit_codes_are_all_there():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.M)}
    errors = (UsageError, IncompleteError, InputRefusedError, UnreachableError)
    assert codes == {0, INTERRUPTED, *(error.exit_code for error in errors)}


def test_capacity_follows_from_what_was_measured():
    words = " ".join(TEXT.split())
    measured = json.loads((RESULTS / "pipeline.json").read_text())
    height, width = measured["shape"]
    ours = measured["contenders"]["coseis"]
    assert f"Measured: {ours['mpx_per_s']:.2f} Mpx/s" in words
    assert f"{height * width / 1e6:.1f} Mpx in {ours['seconds']:.1f} s" in words
    phase_mpx = 10_000 * 1e6 / 3**2 / 1e6
    assert f"are {phase_mpx:,.0f} Mpx a phase, {2 * phase_mpx:,.0f} in both" in words
    assert f"that is {2 * phase_mpx / 600:.1f} Mpx/s in all" in words
    seconds = 2 * phase_mpx / ours["mpx_per_s"]
    workers = json.loads((RESULTS / "workers.json").read_text())
    efficiency = {row["workers"]: row["efficiency"] for row in workers["sleeping"]}
    assert ", ".join(f"{efficiency[count]} for {count}" for count in (4, 16, 64)) in words
    assert f"two cores need {seconds:,.0f} s, and 600 s need {seconds / 600:.1f} such workers" in words
    assert f"such workers: {math.ceil(seconds / 600 / efficiency[4])}, if e is {efficiency[4]}" in words
    assert f"at {workers['gpu_mpx_per_s']:g} Mpx/s each and chunks of {workers['chunk_px']} px" in words


def test_the_run_is_one_that_the_chart_takes(tmp_path):
    block = re.search(r"^    job:\n(?:     .*\n)+", TEXT, re.M)
    assert block
    values = yaml.safe_load(re.sub(r"^    ", "", block[0], flags=re.M))
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(values["job"]["config"]))
    assert load_config(tmp_path / "map.yaml", {}).output.out == "s3://maps/iburi"


def test_values_profiles_and_links_are_there():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`((?:job|workers|image|scientists|metrics|dashboard|credentials)\.\w+)", TEXT))
    assert len(named) > 8
    for section, key in (name.split(".") for name in named):
        assert key in values[section], (section, key)
    assert all(f"`{profile}`" in TEXT for profile in PROFILES)
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
    for path in re.findall(r"(?:benchmarks|deploy)/[\w/.-]*\w", TEXT):
        assert (ROOT / path).exists(), path
