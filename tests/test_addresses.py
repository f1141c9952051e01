import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import rasterio
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from coseis.addresses import (
    AddressPolicy,
    AddressRefusedError,
    absolute_address,
    check_address,
    checked_session,
    gdal_environment,
    host_of,
    public_form,
    reach_of,
)
from coseis.errors import InputRefusedError, UnreachableError
from fault_proxy import faulty
from serving import Page, serve

REMOTE = AddressPolicy(catalog="https://stac.example.org/catalog.json", allow_hosts=("files.example.org",))


@pytest.fixture
def public_names(monkeypatch):
    """Every name resolves to a public address; a test may point names elsewhere."""
    places = {}

    def resolve(name, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (places.get(name, "93.184.216.34"), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return places


_pieces = st.sampled_from(
    [
        "http",
        "https",
        "file",
        "s3",
        "gdal",
        ":",
        "/",
        "//",
        "\\",
        "@",
        "?",
        "#",
        "..",
        ".",
        " ",
        "\t",
        "%2f",
        "[::1]",
        "files.example.org",
        "evil.example",
        "127.0.0.1",
        "/vsicurl/",
        "/etc/passwd",
        "x.tif",
        "<VRTDataset>",
        "0x7f.1",
    ]
)


@given(st.lists(_pieces, min_size=1, max_size=9).map("".join))
def test_whatever_passes_lies_on_an_allowed_host_for_every_parser(href):
    base = "https://files.example.org/folder/item.json"
    with contextlib.suppress(InputRefusedError):
        address = check_address(absolute_address(href, base), REMOTE)
        assert urlsplit(address).hostname == parse_url(address).host == "files.example.org"
        assert urlsplit(address).username is None


@given(
    st.lists(st.sampled_from(["..", ".", "inside", "out", "x.tif", "//", "~", ""]), max_size=7).map("/".join)
)
def test_whatever_file_passes_lies_below_the_catalog(tmp_path_factory, href):
    root = tmp_path_factory.getbasetemp() / "catalog-folder"
    (root / "inside").mkdir(parents=True, exist_ok=True)
    if not (root / "out").exists():
        (root / "out").symlink_to(root.parent)
    policy = AddressPolicy(catalog=str(root / "catalog.json"))
    with contextlib.suppress(InputRefusedError):
        passed = check_address(absolute_address(href, str(root / "inside" / "item.json")), policy)
        assert Path(os.path.realpath(passed)).is_relative_to(os.path.realpath(root))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/etc/passwd", "local file, which a remote catalog may not name"),
        ("file:///etc/passwd", "local file"),
        ("/vsicurl/http://127.0.0.1/x.tif", "local file"),
        ("GTIFF_DIR:1:/etc/passwd", "starts with gtiff_dir:"),
        ("ftp://files.example.org/x.tif", "starts with ftp:"),
        (
            "https://evil.example/x.tif?sig=s3cret",
            r"^https://evil\.example/x\.tif lies on evil\.example.*--allow-host evil\.example$",
        ),
        ("https://stac.example.org:8443/x.tif", "--allow-host stac.example.org:8443"),
        ("https://user:s3cret@files.example.org/x.tif", "^https://files.example.org/x.tif holds a blank"),
        ("https://files.example.org\\@evil.example/x.tif", "holds a blank, backslash or user name"),
        ("https://files.example.org?@evil.example/", "or no host"),
        ("http://127.0.0.1/x.tif", "--allow-host 127.0.0.1"),
        ("http://169.254.169.254/latest/meta-data", "--allow-host 169.254.169.254"),
        ("http://[::1/x.tif", "is no web address"),
        ("s3://bucket/x.tif", "--allow-host s3://bucket"),
        ("s3:bucket", "or no host"),
        ("https://files.example.org:99999/x", "is no web address"),
    ],
)
def test_remote_catalog_is_refused(address, message):
    with pytest.raises(AddressRefusedError, match=message) as refused:
        check_address(address, REMOTE)
    assert "s3cret" not in str(refused.value)


def test_own_and_allowed_hosts_pass(public_names):
    policy = AddressPolicy(
        catalog=REMOTE.catalog, allow_hosts=("Files.example.org", "s3://bucket", "private:8080")
    )
    for address in (
        "https://stac.example.org/x.tif?v=1",
        "http://stac.example.org:80/x.tif",
        "https://FILES.example.org./x.tif",
        "s3://bucket/a/x.tif",
        "http://private:8080/x.tif",
    ):
        assert check_address(address, policy) == address
    with pytest.raises(AddressRefusedError, match="--allow-host private:8081"):
        check_address("http://private:8081/x.tif", policy)
    with pytest.raises(AddressRefusedError, match="no valid address"):
        check_address("s3://bucket/../other/x.tif", policy)


@pytest.mark.parametrize(
    "place", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "fe80::1%eth0", "fd00::1"]
)
def test_own_host_moved_to_a_private_address(public_names, place):
    public_names["stac.example.org"] = place
    with pytest.raises(
        AddressRefusedError, match=r"is the private address .*--allow-host stac\.example\.org"
    ):
        check_address("https://stac.example.org/x.tif", REMOTE)
    trusted = AddressPolicy(catalog=REMOTE.catalog, allow_hosts=("stac.example.org",))
    assert check_address("https://stac.example.org/x.tif", trusted)


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"])
def test_private_catalog_named_by_the_user_reaches_itself_only(host):
    policy = AddressPolicy(catalog=f"http://{host}/catalog.json")
    assert check_address(f"http://{host}/x.tif", policy)
    with pytest.raises(AddressRefusedError, match="not the catalog's own host"):
        check_address(f"http://{host.replace('8080', '22')}/", policy)


def test_link_local_is_never_taken_by_its_own_word():
    policy = AddressPolicy(catalog="http://169.254.169.254/catalog.json")
    with pytest.raises(AddressRefusedError, match=r"private address 169\.254\.169\.254"):
        check_address(policy.catalog, policy)


def test_unknown_name_is_unreachable(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UnreachableError, match=r"host stac\.example\.org cannot be resolved"):
        check_address(REMOTE.catalog, REMOTE)


def test_local_catalog_and_allowed_roots(tmp_path):
    inside, other = tmp_path / "catalog" / "x.tif", tmp_path / "other" / "y.tif"
    policy = AddressPolicy(catalog=str(tmp_path / "catalog" / "catalog.json"))
    assert check_address(str(inside), policy) == str(inside.resolve())
    assert check_address(inside.as_uri(), policy) == str(inside.resolve())
    with pytest.raises(AddressRefusedError, match=f"--allow-root {re.escape(str(other.parent.resolve()))}"):
        check_address(str(other), policy)
    wider = policy.model_copy(update={"allow_roots": (str(tmp_path / "other"),)})
    assert check_address(str(other), wider) == str(other.resolve())
    with pytest.raises(AddressRefusedError, match=r"--allow-host example\.org"):
        check_address("https://example.org/x.tif", policy)
    with pytest.raises(AddressRefusedError, match="of another machine"):
        check_address("file://server/share/x.tif", policy)
    anywhere = policy.model_copy(update={"allow_roots": ("/",)})
    with pytest.raises(AddressRefusedError, match="GDAL file system"):
        check_address("/vsicurl/http://127.0.0.1/x.tif", anywhere)


@given(st.text(max_size=20), st.text(alphabet="abc=&%._-", max_size=20))
def test_public_form_drops_the_query(path, secret):
    shown = public_form(
        f"cannot open https://u:p{secret}@host/x?token={secret}Q and more {path}".replace("//u:p@", "//")
    )
    assert "token" not in shown
    assert "u:p" not in shown
    assert public_form("/a folder/x.tif") == "/a folder/x.tif"


def test_names_of_places():
    assert host_of("https://Example.org:443/x") == "example.org"
    assert host_of("http://[::1]:8080/x") == "[::1]:8080"
    assert host_of("s3://bucket/x") == "s3://bucket"
    assert host_of("/data/x.tif") == host_of("file:///data/x.tif") == "file"


def test_gdal_opens_nothing_on_the_network():
    with serve({}) as upstream, faulty(upstream, lambda request: None) as server:
        host = server.address.removeprefix("http://")
        with rasterio.Env(AWS_S3_ENDPOINT=host, AWS_HTTPS="NO", AWS_NO_SIGN_REQUEST="YES"):
            for prefix in (
                f"/vsicurl/{server.address}",
                f"/vsicurl_streaming/{server.address}",
                "/vsis3/bucket",
            ):
                with rasterio.Env(**gdal_environment()), pytest.raises(rasterio.errors.RasterioIOError):
                    rasterio.open(f"{prefix}/x.tif")
                assert not server.requests
            with pytest.raises(rasterio.errors.RasterioIOError):
                rasterio.open(f"/vsicurl/{server.address}/y.tif")
        assert server.requests


def test_what_a_reader_needs_of_a_policy_holds_no_secret():
    policy = AddressPolicy(catalog="https://u:p@Example.org:8443/c.json?sig=1", allow_hosts=("files.org",))
    assert reach_of(policy) == AddressPolicy(catalog="https://Example.org:8443/", allow_hosts=("files.org",))
    local = AddressPolicy(catalog="/home/me/catalog.json", allow_roots=("/data",))
    assert reach_of(local) == AddressPolicy()


def test_hardened_process_reads_no_vrt_but_still_warps(tmp_path):
    """GDAL reads GDAL_SKIP once, so this needs a process of its own."""
    script = """
import sys
from coseis.addresses import harden_process
harden_process()
import numpy as np, rasterio
from rasterio.transform import from_origin
from rasterio.warp import reproject
grid = {"transform": from_origin(0, 4, 1, 1), "crs": "EPSG:4326"}
shape = {"width": 4, "height": 4, "count": 1, "dtype": "uint8"}
with rasterio.open(sys.argv[1] + "/real.tif", "w", driver="GTiff", **shape, **grid) as file:
    file.write(np.ones((1, 4, 4), "uint8"))
src, dst = ({f"{end}_{name}": value for name, value in grid.items()} for end in ("src", "dst"))
out, _ = reproject(np.ones((4, 4)), np.zeros((4, 4)), **src, **dst)
assert out.sum() == 16
open(sys.argv[1] + "/evil.tif", "w").write(
    '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    f"<SourceFilename>{sys.argv[1]}/real.tif</SourceFilename><SourceBand>1</SourceBand>"
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)
try:
    rasterio.open(sys.argv[1] + "/evil.tif")
except rasterio.errors.RasterioIOError:
    print("refused")
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "refused\n"


@pytest.mark.parametrize(("given", "used_mb"), [({}, 256), ({"GDAL_CACHEMAX": "64"}, 64)])
def test_gdal_keeps_few_pixels_unless_told_otherwise(given, used_mb):
    """GDAL's own default is a twentieth of the machine's memory, in every process."""
    script = (
        "import coseis.reader; from rasterio.env import get_gdal_config as get; print(get('GDAL_CACHEMAX'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GDAL_CACHEMAX"} | given
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert int(done.stdout) == used_mb * 2**20


def test_redirect_to_another_private_service_is_refused():
    with (
        serve({"/secret": Page({"key": "s3cret"})}) as inner,
        serve({"/a": Page("", 302, f"{inner}/secret")}) as root,
        checked_session(AddressPolicy(catalog=root)) as session,
    ):
        for address in (f"{root}/a", f"{inner}/secret"):
            with pytest.raises(AddressRefusedError, match=f"--allow-host {inner.removeprefix('http://')}"):
                session.get(address)


@pytest.mark.parametrize(
    ("answers", "met"),
    [
        (["93.184.216.34", "127.0.0.1"], ["93.184.216.34"]),
        (["127.0.0.1", "93.184.216.34"], []),
        (["169.254.169.254"], []),
    ],
)
def test_a_name_is_connected_to_where_it_was_checked(monkeypatch, answers, met):
    """A server of names that gives another answer each time (DNS rebinding) gains nothing by it."""
    left, connected = iter(answers), []

    def resolve(name, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(left), port or 0))]

    def connect(address, *_, **__):
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    session = checked_session(REMOTE, retries=0)
    with pytest.raises((requests.ConnectionError, AddressRefusedError)) as caught:
        session.get("https://stac.example.org/x.tif")
    assert connected == met
    assert isinstance(caught.value, AddressRefusedError) == (not met)
