"""A real HDFS on loopback: a name node and a data node in processes of their own, of a Hadoop that is on this machine.

FINELOOM_TEST_HADOOP names a folder with its jars; those that pyspark 2.4.8 brings are enough. Without it, or without java, tests that
want one are skipped.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from picture_server import wait_until

SERVER = "org.apache.hadoop.hdfs.server"
OPENED = [
    "java.base/java.lang",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.security.jgss/sun.security.krb5",
]
"""Modules that Hadoop looks into on a Java of today."""
PAGES = ("hdfs", "datanode", "static")
"""Folders of web pages that a server wants to find, and that need not hold any."""


@contextmanager
def hdfs_server() -> Iterator[str]:
    """HOST:PORT of the name node."""
    jars = os.environ.get("FINELOOM_TEST_HADOOP")
    if not jars or shutil.which("java") is None:
        pytest.skip("no HDFS here: FINELOOM_TEST_HADOOP is to name a folder of Hadoop's jars, and java to be there")
    with TemporaryDirectory() as name:
        folder, ports = Path(name), _free_ports(5)
        names, pages, data, data_pages, data_calls = (f"127.0.0.1:{port}" for port in ports)
        settings = {
            "fs.defaultFS": f"hdfs://{names}",
            "hadoop.tmp.dir": str(folder / "data"),
            "dfs.replication": "1",
            "dfs.webhdfs.enabled": "false",
            "dfs.namenode.http-address": pages,
            "dfs.datanode.address": data,
            "dfs.datanode.http.address": data_pages,
            "dfs.datanode.ipc.address": data_calls,
        }
        properties = "".join(
            f"<property><name>{key}</name><value>{value}</value></property>" for key, value in settings.items()
        )
        for file in ("core-site.xml", "hdfs-site.xml"):
            (folder / file).write_text(f"<configuration>{properties}</configuration>")
        for page in PAGES:
            (folder / "webapps" / page / "WEB-INF").mkdir(parents=True)
            (folder / "webapps" / page / "WEB-INF" / "web.xml").write_text("<web-app/>")
        java = ["java", "-Xmx300m", *(part for opened in OPENED for part in ("--add-opens", f"{opened}=ALL-UNNAMED"))]
        java += ["-cp", f"{folder}:{jars}/*"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*java, f"{SERVER}.namenode.NameNode", "-format", "-nonInteractive"], check=True, **quiet)
        servers = [
            subprocess.Popen([*java, f"{SERVER}.{program}"], **quiet) for program in ("namenode.NameNode", "datanode.DataNode")
        ]
        try:
            assert wait_until(lambda: _takes_files(names), 120)
            yield names
        finally:
            for server in servers:
                server.kill()
                server.wait()


def _takes_files(names: str) -> bool:
    from hdfs_native import Client, WriteOptions

    client = Client(f"hdfs://{names}", {"dfs.client.failover.max.attempts": "1"})
    try:
        with client.create("/tried", WriteOptions(overwrite=True)) as file:
            file.write(b"x")
        return client.delete("/tried")
    except (OSError, RuntimeError):  # not up yet, or no data node yet
        return False


def _free_ports(count: int) -> list[int]:
    with closing(socket.socket()) as first:
        taken = [first, *(socket.socket() for _ in range(count - 1))]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        found = [one.getsockname()[1] for one in taken]
        for one in taken[1:]:
            one.close()
    return found
