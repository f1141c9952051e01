"""A folder goes in, what checkov finds there comes out; nothing may fail.

It has an environment of its own, because it wants other versions of what we use: `make .venv/checkov`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(sys.prefix) / "checkov" / "bin" / "python"


def checkov(framework: str, folder: Path, *options: str) -> dict[str, Any]:
    """Its results, none of them failed; where it is absent the test is skipped, in CI it fails."""
    if not PYTHON.exists():
        message = "checkov has an environment of its own: make .venv/checkov"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    command = [str(PYTHON), "-m", "checkov.main", "-d", str(folder), "--framework", framework]
    done = subprocess.run(
        [*command, "--skip-download", "-o", "json", *options],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("{"), done.stderr
    results: dict[str, Any] = json.loads(done.stdout)["results"]
    assert [(check["check_id"], check["resource"]) for check in results["failed_checks"]] == []
    assert results["parsing_errors"] == []
    return results
