"""Who may import whom and who owns which library: the arrows of ARCHITECTURE.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"latenight": ROOT / "serve/latenight", "latenight_train": ROOT / "train/latenight_train"}
OURS = frozenset(PACKAGES)

# One library, one module of each package (or one sub-package) that may import it. numpy is free.
OWNERS = {
    "click": {"latenight.cli", "latenight_train.cli"},
    "flatbuffers": {"latenight.wire"},
    "fitsio": {"latenight.fits", "latenight_train.simulate_write"},
    "kafka": {"latenight.broker"},
    "matplotlib": {"latenight.plots", "latenight_train.evaluate_plots"},
    "onnxruntime": {"latenight.session"},
    "prometheus_client": {"latenight.metrics"},
    "pyarrow": {"latenight.wire"},
    "pyod": {"latenight_train.peers.detectors"},
    "scipy": {"latenight_train.peers.umap_groups"},
    "umap": {"latenight_train.peers.umap_groups"},
}
TRAINING = {"torch", "onnx", "onnxscript", "tqdm"}  # the trainer is made of these; serving never sees them
FOUNDATION = {"latenight", "latenight.errors", "latenight.spectra", "latenight.channels", "latenight.scores"}
COMMANDS = {
    "latenight.cli",
    *(f"latenight.cli.{name}" for name in ("base", "doctor", "files", "kafka", "upkeep")),
}
TOP = {*COMMANDS, "latenight.__main__"}


@cache
def imports(*, types: bool) -> dict[str, frozenset[str]]:
    """Module -> what it imports, at its top or in a function; `types` counts annotations, too."""
    paths = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
    }
    names = set(paths)
    return {
        module: frozenset(imports_of(ast.parse(path.read_text()), names, types=types))
        for module, path in paths.items()
    }


def imports_of(node: ast.AST, modules: set[str], *, types: bool) -> set[str]:
    """Full names of the modules that the code imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        source = node.module or ""
        members = {f"{source}.{alias.name}" for alias in node.names} & modules
        return members or {source}
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
        return set()
    return set().union(*(imports_of(child, modules, types=types) for child in ast.iter_child_nodes(node)))


def libraries(*, types: bool) -> set[tuple[str, str]]:
    """Pairs of a module of ours and a third-party library that it imports."""
    return {
        (module, library)
        for module, targets in imports(types=types).items()
        for library in {target.partition(".")[0] for target in targets}
        if library not in sys.stdlib_module_names and library not in OURS and library != "numpy"
    }


def test_the_service_never_imports_the_trainer_or_what_it_is_made_of() -> None:
    """Serving imports neither latenight_train nor torch nor onnx, not even for types."""
    for module, targets in imports(types=True).items():
        if module.startswith("latenight."):
            roots = {target.partition(".")[0] for target in targets}
            assert not roots & ({"latenight_train"} | TRAINING), module


def test_each_library_has_one_owner() -> None:
    """A third-party library is imported by its owner only; one without an owner is imported nowhere."""
    for module, library in libraries(types=True):
        if library in TRAINING:
            continue
        assert library in OWNERS, f"{module} imports {library}, which has no owner"
        owned = any(module == owner or module.startswith(f"{owner}.") for owner in OWNERS[library])
        assert owned, f"{module} imports {library}, which belongs to {OWNERS[library]}"


def test_the_daemon_imports_no_third_party() -> None:
    """The daemon's loop knows protocols, not libraries."""
    assert not {library for module, library in libraries(types=True) if module == "latenight.daemon"}


def test_the_foundation_imports_only_itself() -> None:
    """errors, spectra and scores, which everything imports, import nothing of ours but each other."""
    for module in FOUNDATION:
        ours = {target for target in imports(types=True)[module] if target.partition(".")[0] in OURS}
        assert ours <= FOUNDATION, module


def test_nothing_imports_the_command_line() -> None:
    """The commands are the top: only the entry point and the trainer's commands import them."""
    users = {module for module, targets in imports(types=True).items() if targets & TOP}
    assert users <= {*COMMANDS, "latenight.__main__", "latenight_train.cli"}


def test_there_is_no_import_cycle() -> None:
    """The modules of both packages can be ordered so that each imports only earlier ones."""
    graph = {
        module: targets & imports(types=False).keys() for module, targets in imports(types=False).items()
    }
    assert set(TopologicalSorter(graph).static_order()) >= graph.keys()


def test_the_client_needs_only_the_base_installation() -> None:
    """The command line starts and shows its help where no extra of the package is installed."""
    extras = sorted((OWNERS.keys() | TRAINING) - {"click", "kafka"})
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r})); from latenight.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
