"""A PostgreSQL server of the tests' own, by the binaries of `pgserver`, else those of this machine, at a Unix socket in a folder."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path


class NoServer(Exception):
    """No server runs here, and why."""


def _binaries() -> list[Path]:
    found = importlib.util.find_spec("pgserver")  # importing it would make folders and take locks
    folders = [Path(found.origin).parent / "pginstall" / "bin"] if found and found.origin else []
    system = shutil.which("postgres")
    return [f for f in [*folders, *([Path(system).resolve().parent] if system else [])] if (f / "initdb").exists()]


class PostgresServer:
    def __init__(self) -> None:
        # A server refuses to run as root, and a socket's name may have 107 bytes only: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="fineloom-pg-"))
        self._as = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        told = "there are no server binaries: install pgserver"
        for self.bin in _binaries():
            try:
                self._call("initdb", "-U", "admin", "--auth=trust", "--encoding=UTF8", "--no-sync", "--locale=C.UTF-8")
                self.start()
                return
            except (OSError, subprocess.SubprocessError) as error:
                told = f"{self.bin}: {error}: {getattr(error, 'output', '') or ''}"[-500:]
                shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.end()
        raise NoServer(told)

    def _call(self, program, *arguments):
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        command = [self.bin / program, "-D", self.folder / "data", *arguments]
        subprocess.run(
            command,
            check=True,
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            **self._as,
        )

    def start(self, settings=""):
        options = f"-k {self.folder} -c listen_addresses='' -c shared_buffers=16MB -c max_connections=40 {settings}"
        self._call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, how="fast"):
        self._call("pg_ctl", "-w", "-m", how, "stop")

    def end(self):
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, name, user="admin"):
        return f"postgresql://{user}@/{name}?host={self.folder}"

    def ask(self, statement, name="postgres", user="admin"):
        import psycopg

        with psycopg.connect(self.address(name, user), autocommit=True) as db:
            cursor = db.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def fresh(self):
        """The address of a new, empty database."""
        self._made = getattr(self, "_made", 0) + 1
        self.ask(f"CREATE DATABASE book{self._made}")
        return self.address(f"book{self._made}")
