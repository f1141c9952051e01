"""What doctor finds: versions, devices, credentials by name only; what is broken is one finding more."""

import socket
from pathlib import Path

import pytest
from distributed import LocalCluster

import coseis
from certificates import Authority
from coseis import doctor
from coseis.config import ClusterConfig
from coseis.doctor import CREDENTIALS, certificates, findings, reachability
from coseis.errors import CoseisError, InputRefusedError, UnreachableError, UsageError
from serving import Page, serve
from test_catalogs import api_root
from test_cli import coseis as _coseis
from test_geoparquet import item, write

run_coseis = _coseis
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


def reached(**asked) -> str:
    """The one finding; what is not reached is raised."""
    [(_, answer)] = reachability(**asked)
    if isinstance(answer, CoseisError):
        raise answer
    return answer


def test_a_catalog_that_answers_and_one_that_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    monkeypatch.setattr("coseis.stac_io.RETRY_DELAY_S", 0.0)
    pages = {"/": Page(api_root()), "/static": Page({"type": "Catalog"}), "/no": Page({"type": "Topology"})}
    with serve(pages) as root:
        assert reached(catalog=f"{root}/") == "STAC API answers"
        assert reached(catalog=f"{root}/static") == "STAC Catalog answers"
        with pytest.raises(InputRefusedError, match="is no STAC catalog"):
            reached(catalog=f"{root}/no")
    with pytest.raises(UnreachableError, match=r"does not answer .*refused"):
        reached(catalog=f"{root}/")
    assert reached(catalog=str(write(tmp_path / "items.parquet", [item("a")]))) == "stac-geoparquet answers"


def test_what_does_not_end_is_left_after_its_time(monkeypatch):
    monkeypatch.setattr(doctor, "CHECK_LIMIT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UnreachableError, match=r"the catalog does not answer within 0\.2 s; run again"):
            reached(catalog=f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_a_scheduler_and_its_workers():
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as cluster:
        config = ClusterConfig(scheduler=cluster.scheduler_address)
        assert reached(config=config).endswith(": 1 workers, 2 threads")
    with pytest.raises(UsageError, match="plain TCP to another machine"):
        reached(config=ClusterConfig(scheduler="tcp://10.0.0.1:8786"))
    assert list(reachability(config=ClusterConfig())) == []


def test_an_output_is_written_to_but_never_made(tmp_path):
    assert reached(out=str(tmp_path)) == f"{tmp_path} can be written to"
    assert not list(tmp_path.iterdir())
    assert reached(out=str(tmp_path / "a" / "b")) == f"{tmp_path / 'a' / 'b'} can be made"
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="is none of a path, s3://"):
        reached(out="ftp://host/run")


def test_certificates_are_named_with_their_last_day(tmp_path):
    files = Authority(tmp_path / "ca").issue("client", expired=True)
    found = dict(certificates(ClusterConfig(scheduler="tls://h:1", **files.settings())))
    assert found["tls-cert"] == f"{files.cert}, valid until 2020-01-02"
    assert found["tls-key"] == files.key
    key = Path(files.key).read_text()
    found = dict(certificates(ClusterConfig(scheduler="tls://h:1", tls_key=key, tls_cert="/nowhere.pem")))
    assert found["tls-ca"] == "not set"
    assert found["tls-cert"].startswith("broken: UsageError: /nowhere.pem holds no certificate")
    assert key.splitlines()[1] not in str(found)


def test_the_exit_code_is_that_of_what_was_not_reached(run_coseis, tmp_path, monkeypatch):
    monkeypatch.setattr("coseis.addresses.RETRY_DELAY_S", 0.0)
    good = run_coseis("doctor", "--out", tmp_path)
    assert (good.code, good.err) == (0, "")
    assert f"{tmp_path} can be written to" in good.out
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    outcome = run_coseis("doctor", "--catalog", address, "--out", tmp_path)
    assert f"coseis: {address} does not answer" in outcome.refused(75)
    assert "can be written to" in outcome.out
