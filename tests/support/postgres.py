"""A PostgreSQL server of its own for one test: Debian's, on loopback, with a directory that goes with it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.prefect_server import free_port


@dataclass(frozen=True)
class Postgres:
    """A running server and how to reach it."""

    port: int
    password: str
    programs: Path

    @property
    def connection_url(self) -> str:
        """What `PREFECT_SERVER_DATABASE_CONNECTION_URL` takes."""
        return f"postgresql+asyncpg://prefect:{self.password}@127.0.0.1:{self.port}/prefect"

    def query(self, sql: str) -> str:
        """Return what psql prints for a query, without headings."""
        ran = subprocess.run(
            [
                self.programs / "psql",
                "-h127.0.0.1",
                f"-p{self.port}",
                "-Uprefect",
                "-At",
                "-c",
                sql,
                "prefect",
            ],
            env={**os.environ, "PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.strip()


def find_programs() -> Path | None:
    """Return the directory of the newest PostgreSQL that Debian's packages have put there."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: float(path.parts[-2]), default=None)


@contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """Run a server with one database and one user, both `prefect`."""
    # It refuses to run as root, so its directory belongs to the user that the package has made.
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="tune-pg-", dir="/tmp"))
    server = Postgres(free_port(), secrets.token_hex(16), programs)
    password_file = home / "password"
    password_file.write_text(server.password)
    if user is not None:
        for path in (home, password_file):
            os.chown(path, user.pw_uid, user.pw_gid)

    def run(*command: str | Path) -> None:
        subprocess.run(
            command,
            cwd=home,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    try:
        run(
            programs / "initdb", f"--pgdata={home / 'data'}", "--username=prefect", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        control = (programs / "pg_ctl", f"--pgdata={home / 'data'}", "--wait")
        options = (
            f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off -p {server.port}"
        )
        run(*control, f"--log={home / 'log'}", f"--options={options}", "start")
        try:
            subprocess.run(
                [programs / "createdb", "-h127.0.0.1", f"-p{server.port}", "-Uprefect", "prefect"],
                env={**os.environ, "PGPASSWORD": server.password},
                check=True,
            )
            yield server
        finally:
            run(*control, "--mode=immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
