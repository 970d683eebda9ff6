"""Credentials of URLs in text that is shown: errors, reprs, checks."""

from __future__ import annotations

import pickle

import pytest

from tune_core.cli.checks import Check
from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.errors import CheckpointCorrupted, ConfigError, StorageError, TrialError
from tune_core.masking import masked
from tune_core.storage.filesystems import brief
from tune_core.validation import shorten

URL = "s3://AKIA:ab/hunter2@bucket/p"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no URL: me@example.org", "no URL: me@example.org"),
        ("s3://bucket/me@example.org", "s3://bucket/me@example.org"),
        ("s3://key@bucket/a", "s3://***@bucket/a"),
        (f"cannot read {URL}: no", "cannot read s3://***@bucket/p: no"),
        (f"['{URL}', 'http://u:p@host']", "['s3://***@bucket/p', 'http://***@host']"),
        ("a://b c@d", "a://b c@d"),
    ],
)
def test_user_and_password_of_each_url_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


def test_long_text_is_masked_in_linear_time() -> None:
    # A pattern that looks back would take minutes for it.
    text = "a" * 2_000_000 + "://" + "b:" * 1_000_000 + "@c"

    assert masked(text) == "a" * 2_000_000 + "://***@c"


@pytest.mark.parametrize("kind", [ConfigError, StorageError, CheckpointCorrupted])
def test_no_error_shows_the_credentials_of_a_url(kind: type[Exception]) -> None:
    error = kind(f"name={URL!r}: expected a name")

    for shown in (error, pickle.loads(pickle.dumps(error))):
        assert str(shown) == "name='s3://***@bucket/p': expected a name"


def test_error_of_a_trial_keeps_the_words_of_the_users_code() -> None:
    assert str(TrialError("ValueError: http://a:b@c")) == "ValueError: http://a:b@c"


@pytest.mark.parametrize("argument", ["name", "storage_path", "ray_address", "stop", "tags", "log_to_file"])
def test_url_in_any_argument_is_shown_without_its_password(argument: str) -> None:
    value = URL if argument != "ray_address" else URL.replace("s3", "ray")
    with pytest.raises(ConfigError) as caught:
        RunConfig(**{argument: value if argument != "tags" else {value: 1}})  # type: ignore[arg-type]
    assert argument in str(caught.value)
    assert "hunter2" not in f"{caught.value!r} {caught.value.faults}"


def test_reprs_show_no_password() -> None:
    assert "hunter2" not in repr(RunConfig(tags=[URL]))
    assert "hunter2" not in repr(TuneConfig(metric=URL, mode="min"))
    assert "hunter2" not in shorten({"a": [URL]})
    assert "hunter2" not in brief(OSError(f"cannot connect to {URL}"))
    assert Check("server", "fail", "http://me:hunter2@host does not answer").found == (
        "http://***@host does not answer"
    )
