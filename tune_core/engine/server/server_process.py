"""The process of a Prefect server that is started here: Prefect's own, which ends with the process that started it.

`python -m tune_core.engine.server.server_process PORT` runs Prefect's application as `prefect server start` does.
Prefect's settings in the environment say how. Only `tune_core.engine.server.server` starts it.
"""

from __future__ import annotations

import os
import sys
import threading

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

#: How long requests and open pages may delay the end, in seconds.
END_TIMEOUT_S = 8.0


def serve(port: int) -> None:
    """Run the server in this process until the pipe on standard input is closed."""
    api = get_current_settings().server.api
    config = uvicorn.Config(
        create_app(final=True),
        host="127.0.0.1",
        port=port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level="warning",
        lifespan="on",
    )
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        # A page that is still open, or a request that hangs, must not keep the server.
        threading.Timer(END_TIMEOUT_S, os._exit, (1,)).start()

    threading.Thread(target=watch, daemon=True).start()
    server.run()
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
