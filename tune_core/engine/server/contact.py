"""Whether the Prefect server answers, and how long the end of an experiment waits for one that does not.

While trials run nobody waits for the server: what it misses is sent when it answers again. Once the last trial
has ended, its results are on the storage, and a server that has been silent for `SILENCE_S` is given up. See
docs/design/016-server-outages.md.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from tune_core.engine.server.server import client_options
from tune_core.errors import TuneError

#: How long the server may be silent once the last trial has ended, in seconds.
SILENCE_S = 20.0
#: How long after the last trial `fit()` returns at the latest, in seconds, if the server does not answer: `SILENCE_S`,
#: a pause of Prefect's client, and the ends of the last processes.
END_S = 30.0
#: How long a server may take to accept a connection, and to say that it is well, when a run is about to begin.
_CONNECT_S, _WELL_S = 2.0, 30.0
#: What stands in front of a server that is away answers with these.
_AWAY = frozenset({502, 503, 504})
#: Of a request: when it was first sent.
_BEGAN = "prefect_tune.began"

logger = logging.getLogger("prefect.tune")


class ServerSilent(httpx.TransportError):
    """The server does not answer, and is not asked again: Prefect's clients try again after other errors."""


def require_answer(api_url: str) -> None:
    """Find out whether the server that is configured answers, before anything is started.

    Raises:
        TuneError: It does not, or what answers is no Prefect API; the message says what to do.
    """
    options, shown = Contact(api_url).options(tries_for_s=3.0), _without_password(api_url)
    options["timeout"] = httpx.Timeout(_WELL_S, connect=_CONNECT_S)
    remedy = (
        "Start it (`prefect server start`) or correct PREFECT_API_URL (in the environment or the Prefect profile), "
        "which ends in /api. Without PREFECT_API_URL a server is started for the run"
    )
    try:
        with get_client(sync_client=True, httpx_settings=options) as client:
            answer = client.request("GET", "/health")
    except httpx.TransportError as error:
        reason = "" if isinstance(error, ServerSilent) else f" ({error})"
        raise TuneError(f"the Prefect server at {shown} does not answer{reason}. {remedy}") from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            return  # it is there, and says better what is wrong when it is asked for something
        raise TuneError(f"there is no Prefect API at {shown}: it has no {shown}/health. {remedy}") from None
    if "text/html" in answer.headers.get("content-type", ""):
        raise TuneError(f"there is no Prefect API at {shown}: what answers is a page. {remedy}")


def _without_password(url: str) -> str:
    return str(httpx.URL(url).copy_with(userinfo=b""))


class Contact:
    """What all clients of one experiment know of the server.

    Args:
        api_url: The server's API.
        clock: Monotonic seconds.

    Attributes:
        is_lost: Whether somebody has found that it does not answer, and nobody since that it does.
        was_lost: Whether it was lost at any time.
    """

    def __init__(self, api_url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._api_url, self._clock = api_url, clock
        self._shown = _without_password(api_url or "")
        self._ended = math.inf
        #: When the oldest of the requests was sent that the server has not answered since it last answered one.
        self._asking_since: float | None = None
        self.is_lost = self.was_lost = False
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float:
        """How long the server may still be silent, in seconds; infinite until the last trial has ended."""
        if self._ended == math.inf:
            return math.inf
        if self._asking_since is None:
            return SILENCE_S
        return max(0.0, max(self._asking_since, self._ended) + SILENCE_S - self._clock())

    def begin(self) -> None:
        """Take note that trials run: the server may be silent for any time."""
        self._ended = math.inf

    def end(self) -> None:
        """Take note that the last trial has ended: what was silent before may be silent for `SILENCE_S` more."""
        self._ended = min(self._ended, self._clock())

    def answered(self) -> None:
        """Take note that the server has answered."""
        self._asking_since, self.is_lost = None, False

    def asked(self) -> None:
        """Take note that it is being asked something."""
        if self._asking_since is None:
            self._asking_since = self._clock()

    def lost(self, error: BaseException) -> None:
        """Take note that it has not answered; the first time since it last did, say so."""
        self.asked()
        with self._lock:
            is_known, self.is_lost, self.was_lost = self.is_lost, True, True
        logger.log(
            logging.DEBUG if is_known else logging.WARNING,
            "the Prefect server at %s does not answer (%s). Training does not need it: results are on the storage, "
            "and what the server has missed is sent when it answers again. If it stays away, fit() returns within "
            "%.0f s of the last trial, and Prefect goes on showing what it knew last",
            self._shown,
            str(error) or type(error).__name__,
            END_S,
        )

    def options(
        self, headers: Mapping[str, str] | None = None, *, tries_for_s: float = math.inf
    ) -> dict[str, Any]:
        """Return `httpx_settings` for a client of the server that gives up when `left_s` is over.

        Args:
            headers: Sent with each request.
            tries_for_s: How long the client may try one request again, in seconds.

        Example:
            >>> with get_client(sync_client=True, httpx_settings=contact.options()) as client:  # doctest: +SKIP
            ...     client.hello()
        """

        def before(request: httpx.Request) -> None:
            now = self._clock()
            began = request.extensions.setdefault(_BEGAN, now)
            self.asked()
            left_s, tried_s = self.left_s, now - began
            # The pauses between tries double: the next one is about as long as all before it.
            if left_s <= 0.0 or tried_s > min(left_s, tries_for_s):
                silent_s = now - (self._asking_since or began)
                raise ServerSilent(f"{self._shown} has not answered for {silent_s:.0f} s", request=request)
            if left_s < math.inf:
                limits = request.extensions.get("timeout") or {}
                capped = {name: min(left_s, limit or math.inf) for name, limit in limits.items()}
                request.extensions["timeout"] = capped

        def after(response: httpx.Response) -> None:
            if response.status_code not in _AWAY:
                response.request.extensions.pop(_BEGAN, None)
                self.answered()

        return {
            **client_options(self._api_url, headers),
            "event_hooks": {"request": [before], "response": [after]},
        }
