"""The peer that a user would write: a loop of kafka-python around the same mathematics in eager torch.

python -m tests.bench.naive BUNDLE HOST:PORT TOPIC OUT BATCH N_THREADS

One spectrum a message (flux and ivar as float32, facts as JSON in a header), BATCH of them a turn: model, exact
refinement, statistics, neighbours, calibration; the scores as JSON; commit. Single spectra know no petal, so the petal
step is left out, which is in the peer's favour. The network has the bundle's sizes and random weights: a bundle holds
graphs, not torch weights, and the time does not depend on them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from kafka import KafkaConsumer, KafkaProducer
from torch import Tensor

from latenight import calibration
from latenight.bundle import Bundle, load_bundle
from latenight.channels import COMPARED, PASS2
from latenight.modes import REGIONS, ModeGroup, groups_of, read_modes
from latenight.passes import FOUND
from latenight.redshift import find_redshifts, trials_of
from latenight.spectra import N_PIX, SPECTYPES
from latenight_train.export import MODEL_OUTPUTS, REFINEMENT_OUTPUTS
from latenight_train.graph import Model, Neighbours
from latenight_train.refine import Refinement
from latenight_train.statistics import Statistics
from latenight_train.vae import Architecture, Vae

Tensors = dict[str, Tensor]


class EagerScorer:
    """All that latenight computes of single spectra, in eager torch."""

    def __init__(self, bundle: Bundle) -> None:
        size = Architecture(bundle.manifest["latent"], bundle.manifest["hidden"])
        torch.manual_seed(0)
        self.model, self.refine, self.statistics = Model(Vae(size)).eval(), Refinement(), Statistics()
        self.neighbours = Neighbours(torch.ones(size.latent))
        self.bank = torch.from_numpy(np.load(bundle.path / "bank.npy"))
        self.minus_norm2 = -self.bank.square().sum(1)
        self.groups = read_modes(bundle.path / "modes.npz")
        self.trials = [trials_of(group) for group in self.groups]
        self.calibration = calibration.from_arrays(bundle.arrays("calibration.npz"))

    @torch.inference_mode()
    def __call__(self, flux: Tensor, ivar: Tensor, z: Tensor, spectype: Tensor) -> np.ndarray:
        """The p_values, (N,), of spectra: flux, ivar (N, 7958), z (N,), spectype (N,) index into SPECTYPES."""
        group = groups_of(self.groups, spectype.numpy(), z.numpy())
        missing = np.flatnonzero(group < 0)
        if len(missing):
            unknown = flux[missing].numpy(), ivar[missing].numpy()
            found_z, group[missing] = find_redshifts(*unknown, self.trials, torch.get_num_threads())
            z[missing] = torch.from_numpy(found_z)
        spectype = torch.tensor([SPECTYPES.index(self.groups[k].spectype) for k in group])
        first = dict(zip(MODEL_OUTPUTS, self.model(flux, ivar, z, spectype), strict=True))
        distances, _ = self.neighbours(first["latent"], self.bank, self.minus_norm2)
        rows = {"flux": flux, "ivar": ivar, "z": z}
        values = torch.empty(len(z), len(PASS2))
        for k in np.unique(group).tolist():
            served = np.flatnonzero(group == k)
            mine = {name: v[served] for name, v in rows.items()}
            values[torch.from_numpy(served)] = self._second(mine, self.groups[k])
        group[missing] += FOUND * len(self.groups)
        network = (first["deviance"][:, None], distances[:, :10].mean(1, keepdim=True))
        alone = torch.full((len(z), len(COMPARED)), torch.nan)  # single spectra know no neighbours
        stacked = torch.cat([*network, values, alone], 1).double().numpy()
        p_value: np.ndarray = calibration.calibrated(
            self.calibration, stacked, group, first["snr"].numpy()
        ).p_value
        return p_value

    def _second(self, rows: Tensors, modes: ModeGroup) -> Tensor:
        """Refinement and statistics of the rows of one group."""
        prior, regions = (
            [torch.from_numpy(values) for values in modes.given(*names).values()]
            for names in (("precision",), REGIONS)
        )
        spectra = [rows[name] for name in ("flux", "ivar", "z")]
        refined = dict(zip(REFINEMENT_OUTPUTS, self.refine(*spectra, *prior), strict=True))
        given = {"sky": rows["flux"].std(1, keepdim=True).expand(-1, N_PIX), **refined}
        given["beside"] = torch.zeros_like(refined["mean"])
        names = ("mean", "variance", "sky", "beside", "norm", "coefficients")
        values: Tensor = self.statistics(*spectra, *(given[name] for name in names), *regions)[0]
        return values


def decode(headers: list[tuple[str, bytes]], value: bytes) -> tuple[np.ndarray, float, int]:
    """Flux and ivar (2, 7958), redshift and spectype of a message."""
    facts = json.loads(dict(headers)["facts"])
    z = facts["z"] if facts["z"] is not None else 0.0
    return np.frombuffer(value, np.float32).reshape(2, N_PIX), z, SPECTYPES.index(facts["spectype"])


def main(bundle: Path, address: str, topic: str, out: str, batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    score = EagerScorer(load_bundle(bundle))
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=f"naive-{batch}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=8 << 20,  # 1 MiB, the default, would end every batch at 16 spectra
    )
    producer = KafkaProducer(bootstrap_servers=address)
    while True:
        polled = consumer.poll(timeout_ms=1000, max_records=batch)
        messages = [message for records in polled.values() for message in records]
        if not messages:
            continue
        spectra, z, spectype = zip(*(decode(m.headers, m.value) for m in messages), strict=True)
        arrays = torch.from_numpy(np.stack(spectra))
        p_values = score(arrays[:, 0], arrays[:, 1], torch.tensor(z), torch.tensor(spectype))
        for message, p_value in zip(messages, p_values.tolist(), strict=True):
            producer.send(out, json.dumps({"p_value": p_value}).encode(), key=message.key)
        producer.flush()
        consumer.commit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], *map(int, sys.argv[5:7]))
