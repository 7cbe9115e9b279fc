"""Every command explains itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from latenight.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command and sub-command of the group."""
    found = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def find(path: tuple[str, ...]) -> click.Command:
    """The command with these words."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_and_every_option_has_help(path: tuple[str, ...]) -> None:
    """Each command says in a sentence what it does, and each of its options says what it is for."""
    command = find(path)
    assert command.help
    assert command.get_short_help_str(limit=200).endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_option_is_an_environment_variable(path: tuple[str, ...]) -> None:
    """Option --some-name of a command is LATENIGHT_<COMMAND>_SOME_NAME, shared ones LATENIGHT_SOME_NAME."""
    for option in find(path).params:
        if not isinstance(option, click.Option):
            continue
        name = max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        variable = option.envvar or "_".join(("LATENIGHT", *path, option.name or "")).upper()
        assert variable in {"_".join(("LATENIGHT", *path, name)).upper(), f"LATENIGHT_{name}"}


@pytest.mark.parametrize("path", [(), *commands(main)], ids=" ".join)
def test_help_is_printed(path: tuple[str, ...]) -> None:
    """`latenight COMMAND --help` prints the usage and exits with 0, without any file or server."""
    result = CliRunner().invoke(main, [*path, "--help"], prog_name="latenight")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: {' '.join(('latenight', *path))}")


@pytest.mark.parametrize(
    ("library", "extra"),
    [("matplotlib", "latenight[report]"), ("fitsio", "latenight[cpu] or latenight[gpu]")],
)
def test_a_missing_library_is_an_error_that_names_its_extra(library: str, extra: str, tmp_path: Path) -> None:
    """Without matplotlib or fitsio, `latenight demo` says which extra brings it, and exits with 3."""
    code = f"import sys; sys.modules[{library!r}] = None; from latenight.cli import main; main()"
    words = ("demo", "--bundle", tmp_path, "--night", tmp_path, "--out", tmp_path)
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stderr == f"latenight: {library} is not installed; it comes with {extra}\n"
