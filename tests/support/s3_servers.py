"""S3 servers for the tests: a real one in a process of its own, and moto within this one."""

from __future__ import annotations

import logging
import os
from typing import Any

from examples.seaweedfs import S3Server, start_seaweedfs

__all__ = ["S3Server", "start_moto", "start_seaweedfs"]


def start_moto(*, bucket: str = "tune", checks_credentials: bool = False) -> S3Server:
    """Start moto on a free port of loopback; all that it holds is gone with the process.

    Args:
        bucket: Made at once.
        checks_credentials: Whether a wrong key or secret is refused, as it is by real servers.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url, running = f"http://{host}:{port}", [server]

    def client(service: str, key: str = "none", secret: str = "none") -> Any:
        return boto3.client(
            service,
            endpoint_url=url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )

    client("s3").create_bucket(Bucket=bucket)
    key, secret = "moto", "moto-secret"
    if checks_credentials:
        key, secret = _make_user(client("iam"))
        _check_credentials(url)

    def stop() -> None:
        while running:
            running.pop().stop()

    return S3Server(url=url, key=key, secret=secret, bucket=bucket, pid=os.getpid(), stop=stop)


def _make_user(iam: Any) -> tuple[str, str]:
    iam.create_user(UserName="tester")
    iam.put_user_policy(
        UserName="tester",
        PolicyName="all",
        PolicyDocument='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}',
    )
    access = iam.create_access_key(UserName="tester")["AccessKey"]
    return access["AccessKeyId"], access["SecretAccessKey"]


def _check_credentials(url: str) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request).close()
