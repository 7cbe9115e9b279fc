"""What README.md shows is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from latenight.cli import main
from latenight_train.cli import main as train

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
PROGRAMS = {"latenight": main, "latenight-train": train}
COMMANDS = [line for line in LINES if line.partition(" ")[0] in PROGRAMS]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_is_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and its options exist, with the folders named by the user in their places."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "survey").mkdir()
    shell = shlex.shlex(line, posix=True, punctuation_chars="|")
    shell.whitespace_split = True
    words = list(shell)
    words = words[: words.index("|")] if "|" in words else words
    words = [str(tmp_path) if word == "BUNDLE" or word.startswith("/") else word for word in words]
    name = words.pop(0)
    command: click.Command = PROGRAMS[name]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)


def test_commands_of_each_part_are_shown() -> None:
    """The README shows how to score files, serve, announce, subscribe and train."""
    shown = {" ".join(line.split()[:2]) for line in COMMANDS}
    parts = {f"latenight {name}" for name in ("score", "serve", "announce", "alerts", "topics")}
    assert shown == parts | {f"latenight-train {name}" for name in ("simulate", "fit", "evaluate", "compare")}


def test_every_make_target_named_is_there() -> None:
    """Each `make TARGET` of the README is a target that `make help` lists."""
    listed = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)) <= set(listed)


def test_every_option_named_is_there() -> None:
    """Each `--option` that the text names belongs to some command."""
    commands = [c for group in PROGRAMS.values() for c in group.commands.values()]
    commands += [c for group in commands if isinstance(group, click.Group) for c in group.commands.values()]
    known = {name for c in commands for parameter in c.params for name in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= known
