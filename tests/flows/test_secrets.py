"""What must stay inside: credentials of the storage, and ports that others could reach.

One script runs as a user's would, with a Prefect server and a Ray of its own; afterwards everything
that it left anywhere is searched for the credentials that it was given.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.fault_proxy import FaultProxy, Rule

ROOT = Path(__file__).resolve().parents[2]
#: Printed, logged and reported by the trials: whoever finds no secret has to find this.
PUBLIC = "a-word-that-may-be-seen"

SCRIPT = """
import json, os, sys, tempfile, traceback
from pathlib import Path

import tune_core as tune
from tests.support.processes import command_of, descendants, listeners
from tune_core.config.failure_config import FailureConfig
from tune_core.config.run_config import CheckpointConfig, RunConfig, TuneConfig

given = json.loads(Path(sys.argv[1]).read_text())


def train(config):
    print("{public}", "printed", config["x"], tune.get_checkpoint(), tune.get_context().get_storage())
    for step in range(3):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state").write_text("{public}")
            tune.report({{"step": step, "word": "{public}"}}, checkpoint=tune.Checkpoint.from_directory(directory))
        if config["x"] == 1 and step == 1:
            raise ValueError("{public}")


class LookAround(tune.Callback):
    is_done = False

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if LookAround.is_done:
            return
        LookAround.is_done = True
        family = [os.getpid(), *descendants(os.getpid())]
        commands = {{pid: command_of(pid) for pid in family}}
        seen = {{"me": family[0], "commands": commands, "listeners": listeners(family)}}
        Path(given["seen"]).write_text(json.dumps(seen))


def tuner(name, path, options, values, **more):
    return tune.Tuner(
        train,
        param_space={{"x": tune.grid_search(values)}},
        tune_config=TuneConfig(
            metric="step", mode="max", trial_dirname_creator=lambda t: f"trial-{{t.config['x']}}"
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_options=options,
            failure_config=FailureConfig(max_failures=1),
            log_to_file=True,
            verbose=3,
            **more,
        ),
    )


if __name__ == "__main__":
    work = tuner("leaks", "s3://tune/secret", given["options"], [0, 1, 2], callbacks=[LookAround()])
    print(work, given["words"])
    results = work.fit()
    print(results, list(results), [r.error for r in results], [r.checkpoint for r in results])
    inside = f"s3://{{given['options']['key']}}:{{given['options']['secret']}}@tune/in-url"
    endpoint = {{"endpoint_url": given["options"]["endpoint_url"]}}
    print(list(tuner("in-url", inside, endpoint, [0]).fit()))
    for options in given["broken"]:
        try:
            tuner("broken", "s3://tune/broken", options, [0]).fit()
        except Exception:
            traceback.print_exc()
        else:
            sys.exit("a broken storage was accepted")
    print("done: {public}")
"""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Ray keeps sockets in its directory, whose paths may not be long."""
    path = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def spellings(secret: str) -> set[bytes]:
    """The secret as it is, and as base64 of any text around it would have it."""
    raw = secret.encode()
    found = {raw}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        found.add(encoded[4 * (shift > 0) : -4])
    return found


def stored(s3: S3Server, prefix: str) -> dict[str, bytes]:
    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        region_name="us-east-1",
    )
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return {
        entry["Key"]: client.get_object(Bucket=s3.bucket, Key=entry["Key"])["Body"].read() for entry in listed
    }


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()
    }


@pytest.mark.slow
def test_credentials_and_ports_stay_inside(s3: S3Server, tmp_path: Path, short_directory: Path) -> None:
    extra = f"extra-{secrets.token_hex(8)}"
    with FaultProxy(s3.url) as proxy:
        # The commits of the last trial are refused: their errors go everywhere that errors go.
        proxy.add(Rule("status", method="PUT", path="trial-2/checkpoint", status=403, code="AccessDenied"))
        options: dict[str, Any] = {
            **s3.storage_options,
            "endpoint_url": proxy.url,
            "config_kwargs": {"user_agent_extra": extra},
        }
        given = {
            "options": options,
            "words": PUBLIC,
            "seen": str(tmp_path / "seen.json"),
            "broken": [
                options | {"secret": f"{s3.secret}-wrong"},
                options | {"key": f"{s3.key}-wrong"},
                options | {"endpoint_url": "http://127.0.0.1:9"},
            ],
        }
        (tmp_path / "given.json").write_text(json.dumps(given))
        (tmp_path / "script.py").write_text(SCRIPT.format(public=PUBLIC))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT", "RAY_", "AWS_"))
        }
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "given.json")],
            env={
                **environment,
                "PYTHONPATH": str(ROOT),
                "PREFECT_HOME": str(tmp_path / "prefect"),
                "RAY_TMPDIR": str(short_directory),
                "TMPDIR": str(short_directory),
            },
            capture_output=True,
            timeout=280,
            check=False,
        )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed.decode()[-3000:]

    places = {
        "printed": {"": printed},
        "storage": {**stored(s3, "secret/"), **stored(s3, "in-url/"), **stored(s3, "broken/")},
        "Prefect": files(tmp_path / "prefect"),
        "Ray and temporary files": files(short_directory),
    }
    for place, contents in places.items():
        assert any(PUBLIC.encode() in content for content in contents.values()), (
            f"nothing was found in {place}"
        )
        leaks = {
            name
            for secret in (s3.secret, s3.key, extra)
            for spelling in spellings(secret)
            for name, content in contents.items()
            if spelling in content or spelling in name.encode()
        }
        assert not leaks, f"{place}: {sorted(leaks)}"
    _check_processes(json.loads((tmp_path / "seen.json").read_text()), (s3.secret, s3.key, extra))


def _check_processes(seen: dict[str, Any], hidden: tuple[str, ...]) -> None:
    commands = {int(pid): command for pid, command in seen["commands"].items()}
    assert not [secret for secret in hidden for command in commands.values() if secret in command]
    (server,) = [pid for pid, command in commands.items() if "tune_core.engine.server.server" in command]
    open_to: dict[int, list[str]] = {pid: [] for pid in commands}
    for pid, address, _ in seen["listeners"]:
        open_to[pid].append(address)
    assert open_to[server] == ["127.0.0.1"]
    # Each process that Ray has a worker in listens once for Ray, which asks for its token there.
    workers = [pid for pid, name in commands.items() if name.startswith("ray::") and "Agent" not in name]
    assert workers
    for pid in (seen["me"], *workers):
        assert len([address for address in open_to[pid] if address != "127.0.0.1"]) == 1
    assert "127.0.0.1" in open_to[seen["me"]]  # the channel


def test_what_a_runtime_env_holds_is_shown_nowhere_when_it_cannot_be_set_up(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    token, password = f"token-{secrets.token_hex(8)}", f"word-{secrets.token_hex(8)}"
    environment = {
        "env_vars": {"API_TOKEN": token},
        "working_dir": f"https://me:{password}@127.0.0.1:9/code.zip",
    }
    config = run_config(runtime_env=environment, verbose=3)
    print(config)

    results = tune.Tuner(lambda config: {"loss": 1}, run_config=config).fit()

    print(results, repr(results[0].error))
    assert "RuntimeEnvSetupError" in str(results[0].error)
    seen = recorded(config.name)
    said = {
        "terminal": "".join(capfd.readouterr()),
        "log": caplog.text,
        "flow run": f"{seen.flow_run.state} {seen.flow_run.parameters} {seen.logs()}",
        "artifacts": str([(artifact.description, artifact.data) for artifact in seen.artifacts().values()]),
        **{name: content.decode(errors="replace") for name, content in files(tmp_path).items()},
    }
    assert any("RuntimeEnvSetupError" in text for name, text in said.items() if "error.txt" in name)
    for secret in (token, password):
        assert not [name for name, text in said.items() if secret in text]
