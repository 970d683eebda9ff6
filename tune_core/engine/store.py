"""The block that names a place for experiments and the credentials for it.

Registered with the Prefect server by the entry point `prefect.collections`, which the server loads
at its start: this module must never import Ray.
"""

from __future__ import annotations

from typing import Any

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, field_validator

from tune_core.storage.filesystems import check_url, without_credentials


class ExperimentStore(Block):
    """A place that experiments are kept in, such as a bucket, with the credentials for it.

    Deployments name the block, and hold neither the place nor the credentials. The server keeps
    `storage_options` encrypted and shows them to nobody; who runs the flow can read them.

    Example:
        Save one, then load it:
        ```python
        from tune_core.engine.store import ExperimentStore

        ExperimentStore(
            url="s3://bucket/tuning",
            storage_options={"endpoint_url": "https://s3.example.com", "key": "…", "secret": "…"},
        ).save("BLOCK_NAME")
        store = ExperimentStore.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Experiment Store"
    _block_type_slug = "experiment-store"
    # Both are Prefect's own, for storage: the project has no pages of its own yet.
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A value that is refused is not shown: credentials may be in it.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field(
        title="URL",
        description="Where experiments are kept: an fsspec URL such as s3://bucket/path, without credentials.",
        min_length=1,
        examples=["s3://bucket/tuning"],
    )
    storage_options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Storage options",
        description=(
            "Options of the filesystem as JSON: endpoint_url, key and secret for S3, or profile for one of "
            "~/.aws on the worker; empty: the environment of the worker decides."
        ),
    )

    @field_validator("url")
    @classmethod
    def _has_no_credentials(cls, url: str) -> str:
        return checked_url(url)

    def options(self) -> dict[str, Any] | None:
        """Return the storage options with their secrets, as fsspec takes them; None if there are none."""
        return dict(self.storage_options.get_secret_value()) or None


def checked_url(url: str) -> str:
    """Return the URL as it may be written down.

    Args:
        url: A path or an fsspec URL.

    Raises:
        ValueError: There are credentials or a query in it: these are options. Or it is no URL, but nearly one.
    """
    check_url(url)
    shown = without_credentials(url)
    if shown not in (url, url.rstrip("/")):
        raise ValueError(
            f"{shown}: expected a URL without user:password@ and without a query, since it is stored readably; "
            "give credentials and endpoint as storage_options, of an ExperimentStore block or in the environment"
        )
    return shown if "://" in shown else url  # "s3://" is no path "s3:"
