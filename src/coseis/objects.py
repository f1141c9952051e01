"""An output's address goes in; its objects are put and got, whole, in a folder or in an object store."""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
import obstore.store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from coseis.addresses import (
    BUCKETS,
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    RETRIES,
    RETRY_DELAY_S,
    local_path,
    public_form,
    root_reason,
    s3_endpoint,
    scheme_of,
)
from coseis.errors import CoseisError, InputRefusedError, UnreachableError, UsageError

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import RetryConfig

T = TypeVar("T")

UPLOAD_PART_BYTES = 32 * 2**20
"""Object stores take at most 10,000 parts a file: this allows 320 GB."""


def open_store(uri: str, *, prove_writable: bool = False, must_exist: bool = False) -> ObjectStore:
    """Open the root of an output as an obstore store; a local folder is made unless it must exist.

    The user chose this address, so private hosts are allowed. Credentials and endpoints come from the
    environment (AWS_*, GOOGLE_*, AZURE_*).

    Args:
        uri: Local path, s3://, gs:// or az://.
        must_exist: A local folder that is not there is refused instead of made.
        prove_writable: Write and delete one empty object, so that a wrong bucket fails before any work.

    Raises:
        UsageError: unknown scheme, or a path that is no folder.
        InputRefusedError: not writable.
        UnreachableError: the store does not answer.
    """
    scheme = scheme_of(uri)
    if must_exist and scheme in ("", "file") and not local_path(uri).is_dir():
        raise InputRefusedError(f"{uri} holds no run: there is no such folder")
    if scheme in ("", "file"):
        return obstore.store.LocalStore(_writable_folder(local_path(uri)))
    if scheme not in BUCKETS:
        raise UsageError(f"output {public_form(uri)!r} is none of a path, s3://, gs:// or az://")
    if public_form(uri) != uri:
        raise UsageError(
            f"output {public_form(uri)!r} holds a user name or a query; give credentials in the environment"
        )
    try:
        store = open_bucket(
            uri,
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=2 * READ_TIMEOUT_S)},
            read_timeout_s=READ_TIMEOUT_S,
            # One request may carry a whole shard.
            timeout_s=10 * READ_TIMEOUT_S,
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"output {public_form(uri)!r} is no bucket address ({error})") from error
    if prove_writable:
        _prove_writable(store, uri)
    return store


def open_bucket(
    uri: str, *, retry_config: "RetryConfig", read_timeout_s: float, timeout_s: float
) -> ObjectStore:
    """A bucket, or a place in one; credentials and endpoint come from the environment.

    Args:
        uri: s3://, gs:// or az://.
        retry_config: Of obstore.
        read_timeout_s: Longest silence of the server.
        timeout_s: Of one request.

    Raises:
        BaseError, ValueError: no bucket address.
    """
    scheme = scheme_of(uri)
    allow_http = scheme == "s3" and s3_endpoint(os.environ).startswith("http://")
    # GDAL's word for a public bucket, which users of rasterio know.
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1")
    return obstore.store.from_url(
        uri,
        config={"skip_signature": True} if scheme == "s3" and unsigned else None,
        client_options={
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=read_timeout_s),
            "timeout": timedelta(seconds=timeout_s),
            "allow_http": allow_http,
        },
        retry_config=retry_config,
    )


def put_object(store: ObjectStore, key: str, content: bytes | Path, *, media_type: str | None = None) -> None:
    """Puts one object, whole or not at all.

    Args:
        store: Where it goes.
        key: Its name there.
        content: The bytes, or a local file, which is sent in parts.
        media_type: Kept where the store keeps one.

    Raises:
        InputRefusedError: the store refuses it: no permission, no such bucket, a folder not writable.
        UnreachableError: the store does not answer.
    """
    attributes: Attributes | None = None
    if media_type and not isinstance(store, LocalStore):
        attributes = {"Content-Type": media_type}  # obstore refuses attributes on a file system
    with store_errors(store, key):
        _asked_again(
            store,
            lambda: obstore.put(store, key, content, attributes=attributes, chunk_size=UPLOAD_PART_BYTES),
        )


def create_object(store: ObjectStore, key: str, content: bytes) -> bool:
    """Puts one object where there is none; False if there is one, which stays. Raises as `put_object`.

    Of several that try at once, one gets True.
    """
    with store_errors(store, key):
        try:
            _asked_again(store, lambda: obstore.put(store, key, content, mode="create", use_multipart=False))
        except AlreadyExistsError:
            return False
    return True


def replace_object(store: ObjectStore, key: str, old: bytes, new: bytes) -> bool:
    """Puts one object in place of another; False if what is there is `old` no more. Raises as `put_object`.

    Of several that try at once, one gets True: a bucket takes the put only if the object's tag is still that
    of `old`; a folder knows no such puts, so there its lock is held meanwhile.
    """
    with store_errors(store, key):
        if isinstance(store, LocalStore):
            with _locked(store):
                if obstore.get(store, key).bytes() != old:
                    return False
                obstore.put(store, key, new)
            return True
        there = obstore.get(store, key)
        if there.bytes() != old:
            return False
        try:
            obstore.put(store, key, new, mode={"e_tag": there.meta["e_tag"]}, use_multipart=False)
        except PreconditionError:
            # Ours all the same, if the answer to a first try was lost.
            return obstore.get(store, key).bytes() == new
    return True


def object_version(store: ObjectStore, key: str) -> str | None:
    """What changes when an object is put anew, and may when the same is; None where there is no such object.

    Raises as `store_errors`.
    """
    with store_errors(store, key):
        try:
            meta = obstore.head(store, key)
        except FileNotFoundError:
            return None
    return f"{meta['e_tag']} {meta['last_modified']} {meta['size']}"


def get_object(store: ObjectStore, key: str) -> bytes | None:
    """An object's bytes, or None where there is none. Raises as `store_errors`."""
    with store_errors(store, key):
        try:
            return _asked_again(store, lambda: bytes(obstore.get(store, key).bytes()))
        except FileNotFoundError:
            return None


def list_objects(store: ObjectStore, prefix: str) -> Iterator[str]:
    """The keys that start with a prefix. Raises as `store_errors`."""
    with store_errors(store, prefix):
        yield from _asked_again(
            store,
            lambda: [entry["path"] for page in obstore.list(store, prefix=prefix) for entry in page],
        )


def delete_object(store: ObjectStore, key: str) -> None:
    """Deletes an object, if it is there. Raises as `store_errors`."""
    with store_errors(store, key), suppress(FileNotFoundError):
        _asked_again(store, lambda: obstore.delete(store, key))


@contextmanager
def store_errors(store: ObjectStore, what: str) -> Iterator[None]:
    """Turns what obstore and Zarr raise into our errors.

    Raises:
        InputRefusedError: refused, missing or damaged.
        UnreachableError: the store does not answer.
    """
    try:
        yield
    except CoseisError:
        raise
    except (BaseError, OSError) as error:
        message = f"{what} of {store!r}: {root_reason(error)}"
        if isinstance(error, GenericError) and not isinstance(store, LocalStore):
            raise UnreachableError(f"output does not answer: {message}; run again") from error
        raise InputRefusedError(
            f"output cannot be used: {message}; check that it exists and may be read and written"
        ) from error


@contextmanager
def _locked(store: LocalStore) -> Iterator[None]:
    """Holds the lock of a store's folder; the system lets go of it when the process dies."""
    import fcntl  # not on Windows, where all else works

    folder = os.open(str(store.prefix), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _asked_again(store: ObjectStore, operation: Callable[[], T]) -> T:
    """Does it again, a few times, when a connection breaks: obstore does so only for answers of a status.

    Objects are put whole, so putting one twice ends in the same.
    """
    if isinstance(store, LocalStore):
        return operation()
    return Retrying(**_patience())(operation)


async def asked_again(store: ObjectStore, key: str, operation: Callable[[], Awaitable[T]]) -> T:
    """The same for who waits otherwise, such as Zarr; what goes wrong is raised as `store_errors` says."""
    with store_errors(store, key):
        if isinstance(store, LocalStore):
            return await operation()

        async def once() -> T:  # tenacity awaits only what is declared so
            return await operation()

        return await AsyncRetrying(**_patience())(once)


def _patience() -> dict[str, Any]:
    """How often and how long: options of tenacity."""
    return {
        "retry": retry_if_exception_type(GenericError),
        "stop": stop_after_attempt(1 + RETRIES) | stop_after_delay(READ_TIMEOUT_S),
        "wait": wait_random_exponential(RETRY_DELAY_S, max=READ_TIMEOUT_S),
        "reraise": True,
    }


def _writable_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UsageError(f"output {str(path)!r} is a file; expected a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputRefusedError(f"output {str(path)!r} cannot be written ({error.strerror})") from error
    return path.resolve()


def _prove_writable(store: ObjectStore, uri: str) -> None:
    probe = ".coseis-write-test"
    try:
        _asked_again(store, lambda: obstore.put(store, probe, b""))
        _asked_again(store, lambda: obstore.delete(store, probe))
    except (PermissionDeniedError, UnauthenticatedError, FileNotFoundError) as error:
        raise InputRefusedError(
            f"output {public_form(uri)} cannot be written ({root_reason(error)}); does the bucket exist, and "
            "do the credentials in the environment allow it?"
        ) from error
    except BaseError as error:
        raise UnreachableError(f"output {public_form(uri)} does not answer ({root_reason(error)})") from error
