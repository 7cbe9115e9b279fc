"""The graphs compute what they say, whatever bad pixels hold and however rows are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latenight.spectra import N_PIX, WAVE, WAVE_JOINT
from latenight_train.graph import Model, Neighbours
from latenight_train.pixels import to_joint
from latenight_train.restgrids import PART, Pixels, RestBins, seen_part
from latenight_train.vae import ENCODER_GRID, MEAN_GRID, N_GROUPS, VARIANCE_GRID
from tests.bundles import untrained_vae
from tests.fakes import make_spectra

MODEL = Model(untrained_vae()).eval().requires_grad_(requires_grad=False)


def inputs_of(n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    spectra = make_spectra(n, seed)
    z = torch.from_numpy(np.nan_to_num(spectra.table["z"]).astype(np.float32))
    group = torch.arange(n) % N_GROUPS
    return torch.from_numpy(spectra.flux), torch.from_numpy(spectra.ivar), z, group


def outputs_of(
    flux: torch.Tensor, ivar: torch.Tensor, z: torch.Tensor, group: torch.Tensor
) -> list[np.ndarray]:
    first = MODEL(flux, ivar, z, group)
    return [t.numpy() for t in first]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 2e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@given(
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -5.0, 0.0]), st.sampled_from([0.0, -1.0, np.nan, np.inf])
)
@settings(max_examples=12, deadline=None)
def test_the_content_of_a_bad_pixel_never_changes_a_score(flux_value: float, ivar_value: float) -> None:
    """Whatever flux a pixel with unusable ivar holds, every output stays the same to the last bit."""
    flux, ivar, z, group = inputs_of(3)
    bad = torch.zeros(3, N_PIX, dtype=torch.bool)
    bad[:, 1000:1100] = bad[1, ::7] = True
    clean_ivar = torch.where(bad, torch.zeros(()), ivar)
    expected = outputs_of(torch.where(bad, torch.zeros(()), flux), clean_ivar, z, group)
    found = outputs_of(
        torch.where(bad, torch.tensor(flux_value), flux),
        torch.where(bad, torch.tensor(ivar_value), ivar),
        z,
        group,
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_score_does_not_depend_on_the_other_rows() -> None:
    """Any order and any batch size give the same outputs up to float32 rounding."""
    flux, ivar, z, group = inputs_of(9)
    expected = outputs_of(flux, ivar, z, group)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    permuted = outputs_of(flux[order], ivar[order], z[order], group[order])
    assert_close(permuted, [e[order.numpy()] for e in expected])
    one_by_one = [outputs_of(*(t[k : k + 1] for t in (flux, ivar, z, group))) for k in range(9)]
    assert_close([np.concatenate(column) for column in zip(*one_by_one, strict=True)], expected)


@pytest.mark.parametrize("factor", [0.01, 37.5, 1e4])
def test_the_unit_of_flux_does_not_matter(factor: float) -> None:
    """Flux times a and ivar over a^2 leave latent, deviance and snr unchanged."""
    flux, ivar, z, group = inputs_of(4)
    expected = outputs_of(flux, ivar, z, group)
    scaled = outputs_of(flux * factor, ivar / factor**2, z, group)
    unitless = (0, 2, 3)
    assert_close([scaled[k] for k in unitless], [expected[k] for k in unitless], tolerance=3e-5)


def test_every_output_is_finite_for_rows_without_data() -> None:
    """A row of bad pixels and a row of extreme values come out finite: no NaN reaches a score."""
    flux = torch.stack([torch.zeros(N_PIX), torch.full((N_PIX,), 1e37), torch.full((N_PIX,), -1e37)])
    ivar = torch.stack([torch.zeros(N_PIX), torch.full((N_PIX,), 1e30), torch.full((N_PIX,), 1e-30)])
    for values in outputs_of(flux, ivar, torch.tensor([0.0, 4.9, -0.01]), torch.tensor([0, 1, 2])):
        assert np.isfinite(values).all()


def test_rest_frame_bins_assign_each_pixel_once() -> None:
    """Binning by running sums equals the direct assignment of pixels to bins."""
    values = torch.rand(3, len(WAVE_JOINT), generator=torch.Generator().manual_seed(0))
    z = torch.tensor([[0.0], [0.731], [3.2]])
    bins = RestBins(ENCODER_GRID)
    found = bins(values, bins.first_pixels(z, slice(0, ENCODER_GRID.n))).numpy()
    for row in range(3):
        edges = ENCODER_GRID.edges().numpy() * (1 + float(z[row, 0]))
        at = np.searchsorted(edges, WAVE_JOINT, side="right") - 1
        expected = np.bincount(at, values[row].numpy().astype(np.float64), ENCODER_GRID.n)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-6)


@given(st.lists(st.floats(-0.01, 4.98), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_part_of_a_grid_that_a_batch_sees_is_small_and_enough(redshifts: list[float]) -> None:
    """It holds the points beside every pixel and every bin with a pixel, and little more than the batch spans."""
    z = torch.tensor(redshifts)[:, None]
    rest = torch.from_numpy(WAVE) / (1 + z.double())
    for grid, at in zip((MEAN_GRID, VARIANCE_GRID), Pixels(MEAN_GRID, VARIANCE_GRID)(z), strict=True):
        points = torch.log(grid.edges()[:-1] / 600.0) + grid.step / 2
        found = at.values(points[at.part].float().expand(len(z), -1))
        np.testing.assert_allclose(found, torch.log(rest / 600.0), atol=2e-6)
        span = float(torch.log(rest.max() / rest.min())) / grid.step
        assert at.part.stop - at.part.start <= min(span + PART + 7, grid.n)
    bins, part = RestBins(ENCODER_GRID), seen_part(ENCODER_GRID, z)
    values = torch.ones(len(z), len(WAVE_JOINT))
    assert (bins(values, bins.first_pixels(z, part)).sum(1) == len(WAVE_JOINT)).all()


def test_the_joint_grid_counts_each_pixel() -> None:
    """Sums on the joint grid have two pixels where arms overlap, and one elsewhere."""
    counts = to_joint(torch.ones(1, N_PIX))
    assert counts.sum() == N_PIX
    assert (counts == 2).sum() == 51 + 126


def test_neighbours_are_exact() -> None:
    """Distances and rows equal those of a direct search in float64."""
    rng = np.random.default_rng(0)
    bank, latent = rng.standard_normal((500, 6)), rng.standard_normal((7, 6))
    scale = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 1.0])
    scaled = torch.from_numpy(bank).float()
    distances, rows = Neighbours(scale)(torch.from_numpy(latent).float(), scaled, -scaled.square().sum(1))
    direct = np.linalg.norm(bank[None] - (latent * scale.numpy())[:, None], axis=2)
    np.testing.assert_array_equal(rows, np.argsort(direct, axis=1)[:, :16])
    np.testing.assert_allclose(distances, np.sort(direct, axis=1)[:, :16], rtol=1e-5)
