"""Are these spectra new? Files that training or lessons saw make a measurement look better than it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latenight.errors import StartupError
from latenight.triage import triage_learned_from
from latenight_train.combiner import combiner_learned_from
from latenight_train.data import LEAST_TARGETID, objects

if TYPE_CHECKING:
    from collections.abc import Collection

    from latenight.bundle import Bundle
    from latenight_train.data import Survey


def refuse_trained_on(tested: Survey, bundle: Bundle) -> None:
    """Refuse files that the bundle was trained on.

    Raises:
        StartupError: it was trained on some of them.
    """
    training = bundle.manifest.get("training", {})
    refuse_seen(tested, training.get("files", {}).values(), f"bundle {bundle.path} was trained")


def trained_targets(tested: Survey, bundle: Bundle) -> frozenset[int]:
    """TARGETIDs of a survey that the bundle's models and tables know from other files."""
    return seen_targets(tested, bundle.arrays("calibration.npz")["trained_objects"])


def seen_targets(tested: Survey, seen: np.ndarray) -> frozenset[int]:
    """TARGETIDs of a survey whose objects, as data.objects has them, are among those that were seen."""
    known = np.isin(objects(tested.table), seen) & (tested.table["targetid"] >= LEAST_TARGETID)
    return frozenset(tested.table["targetid"][known].tolist())


def refuse_lessons(tested: Survey) -> None:
    """Refuse files whose spectra taught the networks of the combiner or triage.

    Raises:
        StartupError: some of them did.
    """
    refuse_seen(tested, combiner_learned_from().get("files", ()), "the combiner was taught")
    refuse_seen(tested, triage_learned_from().get("files", ()), "triage was taught")


def refuse_seen(tested: Survey, seen: Collection[str], who: str) -> None:
    """Refuse to test on files that were seen, known by their digests.

    Raises:
        StartupError: some of them were.
    """
    names = [name for name, _, digest in tested.files if digest in set(seen)]
    if names:
        raise StartupError(f"{who} on {', '.join(names)}: test on other coadds, of another night")
