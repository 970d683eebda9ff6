"""Where experiments are kept, by settings and blocks, and that credentials are seen by nobody."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from tune_core.engine import settings as settings_module
from tune_core.engine.settings import Place, TuneSettings, storage_of, tune_settings
from tune_core.engine.store import ExperimentStore
from tune_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "PREFECT_INTEGRATIONS_TUNE_"
SECRET = "swordfish"
OPTIONS = {"endpoint_url": "https://s3.example.com", "key": "someone", "secret": SECRET}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in TuneSettings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)  # no .env, prefect.toml or pyproject.toml of this project


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ExperimentStore]:
    """Blocks by name, in place of a server's."""
    saved = {"bucket": ExperimentStore(url="s3://bucket/tuning", storage_options=OPTIONS)}
    monkeypatch.setattr(settings_module, "load_store", saved.__getitem__)
    return saved


class TestExperimentStore(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    @pytest.fixture
    def block(self) -> type[Block]:
        return ExperimentStore

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        # The suite's own fetches the snapshot, which is one of Prefect's; the unit tier talks to nobody.
        assert str(block._logo_url).startswith("https://raw.githubusercontent.com/PrefectHQ/prefect/")
        assert str(block._documentation_url).startswith("https://docs.prefect.io/")


def test_without_settings_a_path_is_what_it_is_for_run_config() -> None:
    assert storage_of() == Place("~/ray_results", None)
    assert storage_of("runs") == Place("runs", None)
    assert storage_of("s3://bucket/runs") == Place("s3://bucket/runs", None)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (None, Place("s3://mine/runs", OPTIONS)),
        ("nightly/digits", Place("s3://mine/runs/nightly/digits", OPTIONS)),
        ("s3://other/runs", Place("s3://other/runs", OPTIONS)),
        ("s3a://other/runs", Place("s3a://other/runs", OPTIONS)),
        ("gs://other/runs", Place("gs://other/runs", None)),
        ("/data/runs", Place("/data/runs", None)),
        ("~/runs", Place("~/runs", None)),
        ("file:///data/runs", Place("file:///data/runs", None)),
    ],
)
def test_a_path_is_below_the_place_of_the_settings_and_another_kind_of_place_gets_no_options(
    monkeypatch: pytest.MonkeyPatch, path: str | None, place: Place
) -> None:
    monkeypatch.setenv(PREFIX + "STORAGE_PATH", "s3://mine/runs/")
    monkeypatch.setenv(
        PREFIX + "STORAGE_OPTIONS",
        '{"endpoint_url": "https://s3.example.com", "key": "someone", "secret": "swordfish"}',
    )

    assert storage_of(path) == place


@pytest.mark.parametrize("path", ["/data/tuning/", "./", "~/tuning/", "/", "s3://"])
def test_a_slash_at_the_end_is_no_credentials(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_of(path) == Place(path, None)
    monkeypatch.setenv(f"{PREFIX}STORAGE_PATH", path)
    assert storage_of() == Place(path, None)


def test_a_local_place_of_the_settings_has_paths_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "STORAGE_PATH", "/data")

    assert storage_of("nightly") == Place("/data/nightly", None)


def test_a_block_that_is_named_comes_before_the_settings(
    monkeypatch: pytest.MonkeyPatch, blocks: dict[str, ExperimentStore]
) -> None:
    monkeypatch.setenv(PREFIX + "STORAGE_PATH", "/data")

    assert storage_of(store="bucket") == Place("s3://bucket/tuning", OPTIONS)
    assert storage_of("nightly", "bucket") == Place("s3://bucket/tuning/nightly", OPTIONS)
    assert storage_of("s3://bucket/tuning/nightly", "bucket").options == OPTIONS


def test_a_path_of_another_kind_than_the_block_is_refused(blocks: dict[str, ExperimentStore]) -> None:
    with pytest.raises(
        ConfigError, match=r"'/data/x' is not in the store 'bucket', which is s3://bucket/tuning"
    ):
        storage_of("/data/x", "bucket")


def test_a_setting_may_name_the_block(
    monkeypatch: pytest.MonkeyPatch, blocks: dict[str, ExperimentStore]
) -> None:
    monkeypatch.setenv(PREFIX + "STORE", "bucket")

    assert storage_of("nightly") == Place("s3://bucket/tuning/nightly", OPTIONS)
    assert storage_of("/data") == Place("/data", None)


def test_a_block_without_options_leaves_them_to_the_environment(blocks: dict[str, ExperimentStore]) -> None:
    blocks["open"] = ExperimentStore(url="s3://bucket")

    assert storage_of(store="open") == Place("s3://bucket", None)


def test_settings_are_read_from_a_prefect_toml_too(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text(
        "[integrations.tune]\n"
        'storage_path = "s3://mine"\n'
        'storage_options = \'{"key": "someone", "secret": "swordfish"}\'\n'
        'ray_address = "auto"\n'
    )

    assert storage_of() == Place("s3://mine", {"key": "someone", "secret": SECRET})
    assert tune_settings().ray_address == "auto"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"STORAGE_PATH": f"s3://key:{SECRET}@bucket/x"}, r"TUNE_STORAGE_PATH: .*without user:password@"),
        (
            {"STORAGE_PATH": "s3://b", "STORAGE_OPTIONS": f'{{"secret": "{SECRET}"'},
            r"TUNE_STORAGE_OPTIONS: .*expected a JSON object",
        ),
        (
            {"STORAGE_PATH": "s3://b", "STORAGE_OPTIONS": f'["{SECRET}"]'},
            r"TUNE_STORAGE_OPTIONS: .*valid dictionary",
        ),
        ({"STORAGE_OPTIONS": f'{{"secret": "{SECRET}"}}'}, r"storage_options without storage_path: set both"),
        ({"STORAGE_PATH": "s3://b", "STORE": "bucket"}, r"the block has both, set one way"),
    ],
)
def test_a_wrong_setting_is_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(PREFIX + name, value)

    with pytest.raises(ConfigError, match=message) as raised:
        storage_of()

    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_path_with_credentials_is_refused_since_prefect_stores_parameters_readably() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/x: expected a URL without user:password@") as raised:
        storage_of(f"s3://key:{SECRET}@bucket/x")

    assert SECRET not in str(raised.value)


def test_a_block_with_credentials_in_its_url_is_refused_without_showing_them() -> None:
    with pytest.raises(ValidationError, match=r"url\n.*without user:password@") as raised:
        ExperimentStore(url=f"s3://key:{SECRET}@bucket/x")

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url", [f"s3://key:a/{SECRET}@bucket/x", f"s3://key:{SECRET}/bucket", "s3:/bucket/x"]
)
def test_what_only_resembles_a_url_is_refused_by_paths_settings_and_blocks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "a URL has '//'" if url == "s3:/bucket/x" else "where credentials end"
    with pytest.raises(ValidationError, match=told) as of_block:
        ExperimentStore(url=url)
    with pytest.raises(ConfigError, match=told) as of_path:
        storage_of(url)
    monkeypatch.setenv(PREFIX + "STORAGE_PATH", url)
    with pytest.raises(ConfigError, match=told) as of_setting:
        tune_settings()

    assert not [each for each in (of_block, of_path, of_setting) if SECRET in str(each.value)]


def test_secrets_are_in_no_text_about_settings_blocks_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "STORAGE_PATH", "s3://mine")
    monkeypatch.setenv(PREFIX + "STORAGE_OPTIONS", f'{{"secret": "{SECRET}"}}')
    settings, block = tune_settings(), ExperimentStore(url="s3://bucket", storage_options=OPTIONS)

    for each in (settings, block):
        texts: list[Any] = [repr(each), str(each), each.model_dump(), each.model_dump_json()]
        assert not [text for text in texts if SECRET in str(text)]
    assert SECRET not in repr(storage_of())
    assert storage_of().options == {"secret": SECRET}


def test_the_server_is_told_that_the_options_are_secret() -> None:
    assert ExperimentStore.model_json_schema()["secret_fields"] == ["storage_options.*"]


def test_the_entry_point_that_the_server_loads_registers_the_block_without_ray() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["prefect.collections"].values()
    code = (
        f"import sys, {module}; from prefect.utilities.dispatch import lookup_type;"
        "from prefect.blocks.core import Block;"
        "print('experiment-store' in {b.get_block_type_slug() for b in Block.__subclasses__()},"
        " 'ray' in sys.modules, 'prefect_ray' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["True", "False", "False"]
