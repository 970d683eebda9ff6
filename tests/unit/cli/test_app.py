"""The frame of `prefect-tune`: exit codes, the two streams, and how little is imported."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.command_line import CommandLine, tuned
from tune_core.cli import app
from tune_core.cli.answer import Answer, ExitCode, to_json
from tune_core.errors import ConfigError, StorageError, TrainableError

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ["run", "resume", "extend", "serve", "ls", "show", "compare", "export", "stop", "steer", "doctor"]


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def ends_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let every command raise, or return, what is given."""

    def set_end(end: Any) -> None:
        def call(_: list[str]) -> Any:
            print("from a library")
            if isinstance(end, BaseException):
                raise end
            return end

        monkeypatch.setattr(app, "_call", call)

    return set_end


def imported_by(*arguments: object) -> set[str]:
    """The packages that a call of `prefect-tune` has imported, by its own process."""
    code = (
        "import sys; from tune_core.cli import main; code = main(sys.argv[1:]); "
        "print('IMPORTED', *{name for name in sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stderr.rpartition("IMPORTED")[2].split())


def test_help_names_every_command_and_imports_none_of_them(prefect_tune: CommandLine) -> None:
    called = prefect_tune("--help")

    words = called.out.split()
    assert called.code == 0
    assert all(command in words for command in [*COMMANDS, "automations"])
    loaded = imported_by("--help")
    assert not loaded & {"prefect", "ray", "pandas", "optuna", "s3fs", "tune_core.cli.running"}


def test_looking_at_experiments_on_this_machine_imports_neither_prefect_nor_ray(tmp_path: Path) -> None:
    tuned(tmp_path, "digits")

    for arguments in (["ls", tmp_path], ["show", tmp_path / "digits"], ["show", tmp_path / "digits", 0]):
        assert not imported_by(*arguments) & {"prefect", "ray", "pandas", "optuna"}


def test_help_takes_less_than_a_second_of_work() -> None:
    code = "import time; from tune_core.cli import main; main(['--help']); print(time.process_time())"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert float(ran.stdout.split()[-1]) < 1.0


@pytest.mark.parametrize("command", [*COMMANDS, "automations install"])
def test_every_command_explains_itself_and_its_options(prefect_tune: CommandLine, command: str) -> None:
    called = prefect_tune(*command.split(), "--help")

    assert called.code == 0
    assert called.out.startswith(f"Usage: prefect-tune {command}")
    assert "--json" in called.out
    assert "--empty-" not in called.out


def test_each_option_has_a_description() -> None:
    for name, place, _ in app.COMMANDS:
        module, _, function = place.partition(":")
        source = ROOT / "tune_core" / "cli" / f"{module}.py"
        (found,) = (
            node
            for node in ast.parse(source.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
        arguments = found.args
        names = [arguments.vararg] if arguments.vararg else []
        names += [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        described = ast.get_docstring(found) or ""
        assert [each.arg for each in names if f"  {each.arg}: " not in described] == [], name


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (ConfigError("num_samples=0: at least 1"), 2, "num_samples=0: at least 1"),
        (TrainableError("no such function"), 2, "no such function"),
        (StorageError("the bucket is gone"), 1, "the bucket is gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    prefect_tune: CommandLine, ends_in: Any, end: BaseException, code: int, told: str
) -> None:
    ends_in(end)

    plain, as_json = prefect_tune("ls"), prefect_tune("ls", "--json")

    assert (plain.code, plain.err) == (code, f"prefect-tune: {told}\n")
    assert plain.out == "from a library\n"
    assert as_json.code == code
    assert as_json.json == {"error": {"type": type(end).__name__, "message": told}}


def test_an_error_of_many_lines_stays_on_one_and_cannot_control_the_terminal(
    prefect_tune: CommandLine, ends_in: Any
) -> None:
    ends_in(StorageError("two\nlines \x1b[2J"))

    assert prefect_tune("ls").err == "prefect-tune: two lines ?[2J\n"


def test_a_defect_of_ours_is_not_hidden(prefect_tune: CommandLine, ends_in: Any) -> None:
    ends_in(ZeroDivisionError("a defect"))

    with pytest.raises(ZeroDivisionError):
        prefect_tune("ls")


def test_with_json_stdout_has_the_document_alone(prefect_tune: CommandLine, ends_in: Any) -> None:
    ends_in(Answer({"loss": float("nan")}, lambda _: ["a table"], ExitCode.FAILED))

    plain, as_json = prefect_tune("ls"), prefect_tune("ls", "--json")

    assert (plain.code, plain.out) == (1, "from a library\na table\n")
    assert (as_json.code, as_json.json, as_json.err) == (1, {"loss": None}, "from a library\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shwo"], 'Did you mean "show"?'),
        (["show"], "PATH"),
        (["show", "x", "--limt", "3"], "--limt"),
        (["show", "x", "--limit", "many"], "many"),
        (["steer", "x", "halt"], "halt"),
    ],
)
def test_wrong_usage_is_told_in_one_line(prefect_tune: CommandLine, arguments: list[str], told: str) -> None:
    called = prefect_tune(*arguments)

    assert (called.code, called.out) == (2, "")
    assert told in called.err
    assert len(called.err.splitlines()) == 1


def test_json_is_what_every_parser_takes() -> None:
    document = {"a": [float("inf"), -0.5], "ü": {"x": Path("/p")}, "big": 2**70}

    assert json.loads(to_json(document)) == {"a": [None, -0.5], "ü": {"x": "/p"}, "big": 2**70}
    assert to_json(document).isascii()


@pytest.mark.parametrize("option", ["", " --json"])
def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path, option: str) -> None:
    tuned(tmp_path, "digits")
    command = f"{sys.executable} -m tune_core.cli show {tmp_path}/digits{option} | true"

    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stderr == ""


def test_credentials_are_not_echoed(prefect_tune: CommandLine, tmp_path: Path) -> None:
    secret = tmp_path / "options.json"
    secret.write_text('{"key": "me", "secret": "S3CRET"')
    for options in ('{"secret": "S3CRET"', f"@{secret}", '["S3CRET"]'):
        called = prefect_tune("show", "s3://bucket/x", "--storage-options", options)

        assert called.code == 2
        assert "expected a JSON object" in called.err
        assert "S3CRET" not in called.err

    assert "cannot be read" in prefect_tune("ls", "s3://b/x", "--storage-options", "@/no/such").err
    both = prefect_tune("ls", "s3://b/x", "--storage-options", "{}", "--store", "mine")
    assert (both.code, "give one of them" in both.err) == (2, True)


def test_a_path_with_credentials_is_refused_beside_options_too(prefect_tune: CommandLine) -> None:
    for command in ("ls", "show"):
        called = prefect_tune(command, "memory://me:S3CRET@bucket/digits", "--storage-options", "{}")

        assert called.code == 2
        assert "S3CRET" not in called.out + called.err
