"""The streams of a trial, put back whatever it did to them."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest

from flows.output import forwarded_output


class WithoutFlush:
    def write(self, text: str) -> int:
        return len(text)


class Broken(WithoutFlush):
    def flush(self) -> None:
        raise RuntimeError("broken")

    def __repr__(self) -> str:
        raise RuntimeError("broken as well")


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (WithoutFlush(), "AttributeError: 'WithoutFlush' object has no attribute 'flush'"),
        (Broken(), "<Broken, whose repr() raised RuntimeError>, could not be flushed"),
        (closed(), "ValueError: I/O operation on closed file"),
        (None, ""),
    ],
)
def test_stream_that_a_trial_leaves_broken_is_put_back(
    stream: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = sys.stdout

    with caplog.at_level(logging.WARNING), forwarded_output(None, None):
        sys.stdout = stream

    assert sys.stdout is before
    assert said in caplog.text


def test_trial_ends_with_its_own_error_though_its_stream_is_broken() -> None:
    def train() -> None:
        with forwarded_output(None, None):
            sys.stdout = WithoutFlush()  # type: ignore[assignment]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
