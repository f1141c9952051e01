"""Which schedulers may be reached, with which certificates: refused in one line, before anything connects."""

from pathlib import Path

import dask
import pytest

from certificates import Authority, Files
from coseis.config import ClusterConfig
from coseis.errors import UsageError
from coseis.security import check_scheduler, client_security, find_certificates, valid_until

ADDRESS = "tls://127.0.0.1:8786"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def files(authority) -> Files:
    return authority.issue("client")


def tls(files: Files, **changes: str | None) -> ClusterConfig:
    return ClusterConfig(scheduler=ADDRESS, **(files.settings() | changes))


@pytest.mark.parametrize(
    "address", ["local", "tcp://127.0.0.1:8786", "tcp://127.3.2.1:8786", "tcp://localhost:1", "tcp://[::1]:1"]
)
def test_on_this_machine_a_plain_scheduler_will_do(address):
    check_scheduler(ClusterConfig(scheduler=address))
    assert client_security(ClusterConfig(scheduler=address)) is None


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "tcp://scheduler:8786", "tcp://0.0.0.0:8786", "tcp://localhost.a.b:1"]
)
def test_beyond_it_a_plain_scheduler_is_refused_unless_the_network_is_trusted(address):
    with pytest.raises(
        UsageError, match=r"plain TCP to another machine.*tls://HOST:PORT, or add --plain-sch"
    ):
        check_scheduler(ClusterConfig(scheduler=address))
    check_scheduler(ClusterConfig(scheduler=address, plain_scheduler=True))


def test_certificates_for_a_plain_scheduler_would_not_be_used(files):
    with pytest.raises(UsageError, match=r"--tls-ca, --tls-cert, --tls-key given, but scheduler tcp://"):
        check_scheduler(ClusterConfig(scheduler="tcp://127.0.0.1:8786", **files.settings()))


def test_certificates_by_our_settings_or_dasks(files, authority, tmp_path):
    check_scheduler(tls(files))
    other = authority.issue("other")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.cert).read_bytes() + Path(files.key).read_bytes())
    settings = {
        "distributed.comm.tls.ca-file": other.ca,
        "distributed.comm.tls.client.cert": other.cert,
        "distributed.comm.tls.client.key": other.key,
    }
    with dask.config.set(settings):
        check_scheduler(ClusterConfig(scheduler=ADDRESS))
        assert find_certificates(ClusterConfig(scheduler=ADDRESS)) == (*other,)
        # Dask's key belongs to Dask's certificate: ours holds its own.
        config = ClusterConfig(scheduler=ADDRESS, tls_cert=str(both))
        check_scheduler(config)
        assert find_certificates(config) == (other.ca, str(both), None)


def test_the_security_of_a_client_is_strict(files):
    security = client_security(tls(files))
    assert security is not None
    assert security.require_encryption
    context = security.get_connection_args("client")["ssl_context"]
    assert context.check_hostname


def test_missing_certificates_name_the_options_and_dasks_settings():
    with pytest.raises(
        UsageError, match=r"no --tls-ca and no --tls-cert; give.*DASK_DISTRIBUTED__COMM__TLS__CA"
    ):
        check_scheduler(ClusterConfig(scheduler=ADDRESS))


@pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key"])
def test_a_file_that_is_not_there(files, name):
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(
        UsageError, match=rf"{option} /nowhere.pem cannot be read \(No such file or directory\)"
    ):
        check_scheduler(tls(files, **{name: "/nowhere.pem"}))


@pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key"])
def test_contents_in_place_of_a_path_are_never_quoted(files, name):
    content = Path(files.key).read_text()
    with pytest.raises(UsageError, match="holds a certificate or key itself; expected the path") as error:
        check_scheduler(tls(files, **{name: content}))
    assert content.splitlines()[1] not in str(error.value)


def test_an_expired_certificate_and_one_of_another_ca(files, authority, tmp_path):
    expired = authority.issue("client", expired=True)
    with pytest.raises(UsageError, match=r"of no use with CA .*ca.pem \(certificate has expired\); expected"):
        check_scheduler(tls(expired))
    stranger = Authority(tmp_path / "stranger").issue("client")
    with pytest.raises(UsageError, match=r"client.pem is of no use with CA .*unable to get local issuer"):
        check_scheduler(tls(files, tls_cert=stranger.cert, tls_key=stranger.key))


def test_a_key_of_another_certificate_and_a_file_that_is_no_certificate(files, authority, tmp_path):
    with pytest.raises(
        UsageError, match=r"private key .*wrong.key cannot be used with certificate .*MISMATCH"
    ):
        check_scheduler(tls(files, tls_key=authority.issue("wrong").key))
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for name in ("tls_ca", "tls_cert"):
        with pytest.raises(UsageError, match=r"text.pem holds no certificate in PEM form"):
            check_scheduler(tls(files, **{name: str(text)}))
    with pytest.raises(UsageError, match=r"private key .*text.pem cannot be used"):
        check_scheduler(tls(files, tls_key=str(text)))


def test_until_when_a_certificate_is_valid(authority):
    assert (
        valid_until(authority.issue("client", expired=True).cert).isoformat() == "2020-01-02T00:00:00+00:00"
    )
