"""The name of a Job goes in; returns when it has ended, well or not, and may scale something to none.

    python follow_job.py coseis-parts-1a2b
    python follow_job.py coseis-map-1a2b /apis/apps/v1/namespaces/maps/deployments/coseis-workers/scale

Standard library alone, on the service account's token. Ends with 75 (try again) when the API server does not
answer for OUTAGE_S.
"""

import json
import ssl
import sys
import time
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
POLL_S = 15.0
OUTAGE_S = 600.0
ENDED = ("Complete", "Failed")


def request(path: str, patch: object = None, *, account: Path = ACCOUNT, api: str = API) -> dict[str, object]:
    """The API server's answer to a GET or, with a body, to a merge patch."""
    call = urllib.request.Request(
        api + path,
        data=None if patch is None else json.dumps(patch).encode(),
        method="GET" if patch is None else "PATCH",
        headers={
            # Read anew each time: the token is changed every hour.
            "Authorization": f"Bearer {(account / 'token').read_text()}",
            "Content-Type": "application/merge-patch+json",
        },
    )
    trust = ssl.create_default_context(cafile=account / "ca.crt") if api.startswith("https:") else None
    with urllib.request.urlopen(call, timeout=30, context=trust) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def how_it_ended(job: dict) -> str | None:
    """Complete, Failed, or None while it goes on."""
    conditions = job.get("status", {}).get("conditions") or []
    return next((c["type"] for c in conditions if c["type"] in ENDED and c["status"] == "True"), None)


def follow(job: str, scaled: str | None, *, account: Path = ACCOUNT, api: str = API) -> str:
    """How the Job ended; then `scaled`, the path of a scale subresource, has no replicas.

    Raises:
        TimeoutError: the API server did not answer, or knew no such Job, for OUTAGE_S.
    """
    namespace = (account / "namespace").read_text().strip()
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{job}"
    ended, answered = None, time.monotonic()
    while True:
        try:
            ended = ended or how_it_ended(request(path, account=account, api=api))
            if ended and scaled:
                request(scaled, {"spec": {"replicas": 0}}, account=account, api=api)
            if ended:
                return ended
            answered = time.monotonic()
        except OSError as error:  # HTTP errors too: a Job that is not there yet is a 404
            if time.monotonic() - answered > OUTAGE_S:
                raise TimeoutError(f"the API server did not say how {job} is: {error}") from error
        time.sleep(POLL_S)


def main(job: str, scaled: str | None = None) -> int:
    """Exit code."""
    try:
        print(f"{job}: {follow(job, scaled)}", flush=True)
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
