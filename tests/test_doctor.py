"""What doctor finds: versions, devices, credentials by name only; what is broken is one finding more."""

import pytest

import coseis
from coseis.doctor import CREDENTIALS, findings

SECRET = "s3cr3t-value-0123456789"


@pytest.fixture(autouse=True)
def _quick_device(monkeypatch):
    monkeypatch.setattr("coseis.backends.probe_device", lambda: ("Tesla T4", "float32"))


def test_versions_model_and_device_are_found():
    found = dict(findings())
    assert found["coseis"] == coseis.__version__
    assert found["distributed"][:1].isdigit()
    assert found["GDAL"][:1].isdigit()
    assert "digest" in found["shipped model"]
    assert found["computes on"] == "Tesla T4, float32 by default"


def test_credentials_are_named_and_never_shown(monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.setenv(name, SECRET)
    found = dict(findings())
    assert {found[name] for name in CREDENTIALS} == {"set"}
    assert SECRET not in str(found)


def test_a_credential_that_is_absent_or_empty_is_not_set(monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PL_API_KEY", "")
    found = dict(findings())
    assert {found[name] for name in CREDENTIALS} == {"not set"}


def test_a_package_that_is_absent_is_a_finding(monkeypatch):
    monkeypatch.setattr("coseis.doctor.PACKAGES", ("click", "no-such-package-as-this"))
    found = dict(findings())
    assert found["no-such-package-as-this"] == "not installed"
    assert found["click"] != "not installed"


def test_what_is_broken_is_told_and_the_rest_still_looked_at(monkeypatch):
    def broken():
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr("coseis.backends.probe_device", broken)
    found = dict(findings())
    assert found["computes on"] == "broken: ImportError: libcudart.so.12: cannot open shared object file"
    assert set(CREDENTIALS) <= found.keys()
