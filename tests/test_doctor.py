"""latenight doctor: what it looks at, what it says of what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from latenight import speed
from latenight.broker import TopicFacts
from latenight.broker.memory import MemoryBroker
from latenight.broker.topics import Topics
from latenight.bundle import load_bundle
from latenight.cli import main
from latenight.errors import StartupError
from latenight.session import CUDA, require_gpu, runtime
from latenight.spectra import N_PIX

if TYPE_CHECKING:
    from pathlib import Path

TOPICS = Topics("t")
Doctor = Callable[..., Result]


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topics(TOPICS.settings(), partitions=4)
    return broker


@pytest.fixture
def doctor(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command on the broker in memory; a petal of 20 spectra is enough to see that it is timed."""
    monkeypatch.setattr("latenight.client.connect", lambda *_: broker)
    monkeypatch.setattr(speed, "PETAL", 20)
    monkeypatch.setattr(speed, "BUCKETS", (2, 4))
    return lambda *words: CliRunner().invoke(main, ["doctor", "--topic-prefix", "t", *map(str, words)])


def wrong(result: Result) -> str:
    """The only line that says what is wrong."""
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("WRONG")]
    assert result.exit_code == 3
    return line


def test_a_healthy_host_has_a_line_for_each_check(doctor: Doctor, bundle: Path, tmp_path: Path) -> None:
    """Versions, telemetry, CPUs, directories, Kafka, bundle and speed are looked at, and the exit code is 0."""
    (tmp_path / "tiles").mkdir()
    result = doctor("--bundle", bundle, "--root", tmp_path)
    lines = dict(line.split(maxsplit=2)[1:] for line in result.stdout.splitlines())
    assert result.exit_code == 0, result.output
    assert list(lines) == ["software", "telemetry", "cpus", "roots", "kafka", "bundle", "speed"]
    assert "onnxruntime" in lines["software"]
    assert "up to 4 daemons share t.spectra" in lines["kafka"]
    assert load_bundle(bundle).id[:12] in lines["bundle"]
    assert "on a petal of 20;" in lines["speed"]
    assert " by 2, " in lines["speed"]


def test_telemetry_that_is_on_is_wrong(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that lets onnxruntime report usage is named."""
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert "unset ORT_DISABLE_TELEMETRY or" in wrong(doctor())


def test_more_threads_than_cpus_are_wrong(doctor: Doctor) -> None:
    """Threads beyond affinity and quota are throttled together; the line says how many may run."""
    assert "1000 threads are asked for" in wrong(doctor("--threads", 1000))


def test_missing_topics_are_wrong(doctor: Doctor, broker: MemoryBroker) -> None:
    """The missing topics and the command that creates them are named."""
    del broker.logs[TOPICS.scores, 0]
    for partition in range(1, 4):
        del broker.logs[TOPICS.scores, partition]
    assert "no such topics: t.scores; run: latenight topics create" in wrong(doctor())


def test_a_topic_for_small_messages_is_wrong(
    doctor: Doctor, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that somebody else created with Kafka's own 1 MB would refuse inline petals."""
    described = broker.describe

    def describe(topics: Sequence[str]) -> dict[str, TopicFacts]:
        return described(topics) | {TOPICS.spectra: TopicFacts(4, {"max.message.bytes": "1048588"})}

    monkeypatch.setattr(broker, "describe", describe)
    assert "t.spectra takes messages of 1048588 bytes, it needs 67108864" in wrong(doctor())


def test_a_broker_that_is_away_is_wrong(
    doctor: Doctor, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was looked for and how to say where it is; the other checks are made all the same."""

    def describe(_: Sequence[str]) -> dict[str, TopicFacts]:
        raise StartupError("cannot use Kafka at nowhere:1")

    monkeypatch.setattr(broker, "describe", describe)
    result = doctor()
    assert wrong(result).endswith("nowhere:1; start it, or say where it is with --bootstrap-servers")
    assert len(result.stdout.splitlines()) == 5


def test_directories_that_are_away_are_wrong(doctor: Doctor, tmp_path: Path) -> None:
    """A root that is missing, and one that is empty as a mount point without its file system is."""
    assert "No such file or directory; mount it" in wrong(doctor("--root", tmp_path / "gone"))
    assert "is empty: is its file system mounted?" in wrong(doctor("--root", tmp_path))


def test_a_damaged_bundle_is_wrong(doctor: Doctor, bundle: Path, tmp_path: Path) -> None:
    """A bundle with an altered file is named with its file, by the proof and by the measurement."""
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    (damaged / "bank.npy").write_bytes(b"other")
    result = doctor("--bundle", damaged)
    assert result.exit_code == 3
    assert [line.split()[:2] for line in result.stdout.splitlines()][-2:] == [
        ["WRONG", "bundle"],
        ["WRONG", "speed"],
    ]
    assert "bank.npy has sha256" in result.stdout


def test_gpu_needs_a_bundle(doctor: Doctor) -> None:
    """What must run on the GPU are the graphs of a bundle: without one it is a usage error."""
    assert doctor("--gpu").exit_code == 2


@pytest.mark.skipif(CUDA in runtime(), reason="this is the GPU's onnxruntime")
def test_without_a_gpu_runtime_gpu_is_wrong(doctor: Doctor, bundle: Path) -> None:
    """--gpu never falls back: on the CPU's onnxruntime it says what to install."""
    result = doctor("--gpu", "--bundle", bundle)
    assert result.exit_code == 3
    assert "WRONG gpu        this onnxruntime has no CUDA provider; install latenight[gpu]" in result.stdout


def test_a_graph_that_would_run_on_the_cpu_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CUDA provider is compiled in but does not load, or leaves out a node, nothing falls back in silence."""
    if CUDA in runtime():
        pytest.skip("this onnxruntime may have a GPU")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA])
    with pytest.raises(StartupError, match=r"does not run on the GPU alone|did not load"):
        require_gpu(bundle / "model.onnx")


def test_what_goes_over_the_bus_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least flux and ivar of each spectrum go into the network, the refinement and the statistics."""
    monkeypatch.setattr(speed, "PETAL", 20)
    speeds = speed.measure(load_bundle(bundle), provider="CPUExecutionProvider", threads=1)
    assert speeds.buckets.keys() == set(speed.BUCKETS)
    assert 3 * 2 * 4 * N_PIX < speeds.moved < 1e6
    assert speeds.bus_bound == pytest.approx(55e9 / speeds.moved)
    assert speeds.petal > 0
