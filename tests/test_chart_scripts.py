"""The scripts that the chart carries: against a real scheduler with TLS, and an API server on loopback."""

import json
import runpy
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from charts import CHART


def script(name: str) -> SimpleNamespace:
    """The names of one of the chart's scripts; functions see changes made to their own globals."""
    return SimpleNamespace(**runpy.run_path(str(CHART / "files" / f"{name}.py")))


@contextmanager
def api_server(answers: list, tls: ssl.SSLContext | None = None):
    """Serves the answers to GET in turn, the last one again and again; notes patches and tokens."""
    seen = SimpleNamespace(patched=[], tokens=set(), types=set(), asked=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.tokens.add(self.headers["Authorization"])
            status, body = answers[min(seen.asked, len(answers) - 1)]
            seen.asked += 1
            self.answer(status, body)

        def do_PATCH(self) -> None:
            seen.tokens.add(self.headers["Authorization"])
            seen.types.add(self.headers["Content-Type"])
            seen.patched.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.answer(200, {})

        def answer(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://localhost:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def account(tmp_path):
    (tmp_path / "token").write_text("secret-token")
    (tmp_path / "namespace").write_text("maps\n")
    return tmp_path


@pytest.fixture
def follow():
    """follow_job.follow without its pauses."""
    names = runpy.run_path(str(CHART / "files" / "follow_job.py"))
    names["follow"].__globals__.update(POLL_S=0.0, OUTAGE_S=0.2)
    return names["follow"]


def job(kind: str | None = None, status: str = "True") -> tuple[int, dict]:
    conditions = [{"type": "Suspended", "status": "False"}]
    if kind:
        conditions.append({"type": kind, "status": status})
    return 200, {"status": {"conditions": conditions}}


@pytest.mark.parametrize("ended", ["Complete", "Failed"])
def test_follows_a_job_until_it_has_ended(follow, account, ended):
    answers = [(404, {}), (200, {"status": {}}), job(), job("FailureTarget"), job(ended, "False"), job(ended)]
    with api_server(answers) as (api, seen):
        assert follow("coseis-parts", None, account=account, api=api) == ended
    assert seen.asked == len(answers)
    assert seen.tokens == {"Bearer secret-token"}
    assert seen.patched == []


def test_scales_down_once_the_job_has_ended(follow, account):
    path = "/apis/apps/v1/namespaces/maps/deployments/coseis-workers/scale"
    with api_server([job(), job("Failed")]) as (api, seen):
        assert follow("coseis-map", path, account=account, api=api) == "Failed"
    assert seen.patched == [(path, {"spec": {"replicas": 0}})]
    assert seen.types == {"application/merge-patch+json"}


def test_gives_up_on_an_api_server_that_does_not_answer(follow, account):
    with (
        api_server([(500, {})]) as (api, _),
        pytest.raises(TimeoutError, match="did not say how coseis-map is"),
    ):
        follow("coseis-map", None, account=account, api=api)


def test_trusts_the_clusters_authority_alone(follow, account):
    import trustme

    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with api_server([job("Complete")], context) as (api, seen):
        other.cert_pem.write_to_path(str(account / "ca.crt"))
        with pytest.raises(TimeoutError):
            follow("coseis-map", None, account=account, api=api)
        assert seen.tokens == set(), "the token was shown to a stranger"
        authority.cert_pem.write_to_path(str(account / "ca.crt"))
        assert follow("coseis-map", None, account=account, api=api) == "Complete"


def test_follow_ends_with_75_where_it_was_in_vain(monkeypatch, account, capsys):
    names = runpy.run_path(str(CHART / "files" / "follow_job.py"))

    def in_vain(*_: object) -> str:
        raise TimeoutError("no answer")

    monkeypatch.setitem(names["main"].__globals__, "follow", in_vain)
    assert names["main"]("coseis-map") == 75
    assert "no answer" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster():
    """Two workers behind TLS; the certificates are in Dask's configuration, as in a pod."""
    import dask

    security = Security.temporary()
    settings = {
        f"distributed.comm.tls.{key}": getattr(security, name)
        for key, name in (
            ("ca-file", "tls_ca_file"), ("client.cert", "tls_client_cert"), ("client.key", "tls_client_key"),
        )
    }  # fmt: skip
    with (
        dask.config.set({**settings, "distributed.comm.require-encryption": True}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tls", security=security,
            dashboard_address="127.0.0.1:0",
        ) as running,
    ):  # fmt: skip
        yield running


def test_waits_for_workers(cluster, capsys):
    module = script("await_workers")
    assert module.main(cluster.scheduler_address, "2", "30") == 0
    assert module.main(cluster.scheduler_address, "3", "0.5") == 75
    assert "fewer than 3 workers after 0.5 s; are there nodes for them?" in capsys.readouterr().err


def test_waits_for_a_scheduler_that_is_not_there_yet(capsys):
    assert script("await_workers").main("tls://127.0.0.1:9", "1", "0.5") == 75
    assert "fewer than 1 workers" in capsys.readouterr().err


def _hold(started: threading.Event, ended: threading.Event) -> str:
    started.set()
    assert ended.wait(60)
    return "done"


HELD: dict[str, threading.Event] = {}


def _held() -> str:
    return _hold(HELD["started"], HELD["ended"])


def test_a_worker_ends_what_it_is_at_and_takes_no_more(cluster, capsys, monkeypatch):
    """The workers are threads of this process, so that a task can be held by an event."""
    module = script("drain_worker")
    HELD.update(started=threading.Event(), ended=threading.Event())
    with Client(cluster) as client:
        names = {str(w["name"]): address for address, w in client.scheduler_info()["workers"].items()}
        name, address = next(iter(names.items()))
        running = client.submit(_held, workers=[address], pure=False)
        assert HELD["started"].wait(30)
        monkeypatch.setenv("DASK_WORKER_NAME", name)
        assert module.main(cluster.scheduler_address, "0.2") == 0
        assert f"1 tasks of {name} run on after 0.2 s" in capsys.readouterr().err
        draining = threading.Thread(target=module.drain, args=(cluster.scheduler_address, name, 30.0))
        draining.start()
        others = client.map(lambda number: number, range(20), pure=False)
        client.gather(others)
        assert all(address not in places for places in client.who_has(others).values())
        assert draining.is_alive()
        HELD["ended"].set()
        draining.join(30)
        assert not draining.is_alive()
        assert running.result() == "done"


def test_nothing_to_drain(cluster, capsys, monkeypatch):
    monkeypatch.setenv("DASK_WORKER_NAME", "nobody")
    module = script("drain_worker")
    assert module.main(cluster.scheduler_address, "5") == 0
    module.drain.__globals__["CONNECT_TIMEOUT_S"] = 0.2
    assert module.main("tls://127.0.0.1:9", "5") == 1
    assert "not drained" in capsys.readouterr().err
