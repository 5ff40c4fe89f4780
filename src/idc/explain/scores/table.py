"""All scores of all methods over the reference panel, as plain data for `scores.json`."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from idc.core.config import ExplainConfig
from idc.data.images import to_images
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_mean, bootstrap_share
from idc.evaluation.statistics.metrics import MIN_CASES
from idc.explain.maps.cams import Cam
from idc.explain.maps.explainer import Explainer
from idc.explain.maps.methods import METHODS
from idc.explain.panels.panel import FUSED
from idc.explain.scores.baseline_maps import BASELINE_MAPS
from idc.explain.scores.faithfulness import HIGHER_IS_BETTER, Perturbations, num_passes
from idc.explain.scores.fast_scores import create_score
from idc.explain.scores.map_traits import (
    add_noise,
    agreement,
    best_enrichment,
    enrichment,
    find_ground,
    is_empty,
    mass_share,
    relative_change,
)
from idc.explain.scores.mosaics import (
    MosaicPlan,
    find_unreliable,
    join_mosaics,
    plan_mosaics,
    pointing_share,
)
from idc.explain.scores.sanity import MAX_SIMILARITY, STEPS, changes, randomised, similarity
from idc.models.networks.fusion import FusionCNN

log = logging.getLogger(__name__)

Maps = Mapping[str, Mapping[str, np.ndarray]]
"""By method, then by source: float32 (patches, height, width)."""

_CAM_STRIDE_PX = 16
_NUM_STEPS = 10  # of the deletion and of the insertion curve: tenths of a patch
_MOSAIC_CONFIDENCE = 0.8  # calibrated, of a patch's label, from which it may stand in a mosaic
_SANITY_SHARE = 4  # one of so many panel patches is explained four more times, for sanity and noise
_MIN_SANITY_PATCHES = 2


class _Interval(Protocol):
    """`bootstrap_mean`, or `bootstrap_share` for what cannot leave 0-1."""

    def __call__(
        self, values: np.ndarray, case: np.ndarray, bootstrap: Bootstrap, /
    ) -> Estimate: ...


@dataclass(frozen=True)
class ExplainedModel:
    """The network whose explanations are scored."""

    model: FusionCNN
    """Trained, in evaluation mode, on `device`; never changed."""
    size_px: int
    mean_embedding: Tensor
    """Mean training embedding, float32 (features,)."""
    device: torch.device
    explain_with: Callable[[FusionCNN, Tensor], Explainer]
    """Makes an explainer of a network and its mean embedding, as the panel's was made."""


class ExplanationScores:
    """Scores the methods of one run: what all scores need is kept here."""

    def __init__(
        self,
        subject: ExplainedModel,
        config: ExplainConfig,
        bootstrap: Bootstrap,
    ) -> None:
        """Keep them.

        Args:
            subject: The network.
            config: The methods and the mosaics.
            bootstrap: Of the intervals; its seed is that of every draw.
        """
        self._subject = subject
        self._methods = config.methods
        self._config = config
        self._bootstrap = bootstrap
        self._seed = bootstrap.seed
        self._explainer = subject.explain_with(subject.model, subject.mean_embedding)

    def measure(
        self, panel: pd.DataFrame, pixels: np.ndarray, maps: Maps, test: pd.DataFrame,
        store: np.ndarray,
    ) -> dict[str, Any]:  # fmt: skip
        """Score every method on the panel, on mosaics and by the sanity check.

        Args:
            panel: The reference panel, at least two patches; `case` is read.
            pixels: Its patches, uint8 (patches, 50, 50, 3).
            maps: Their maps by every method.
            test: All pool patches of the test set, as `plan_mosaics` takes them.
            store: The pixel store, which `row` of `test` points into.

        Returns:
            `num_patches`, `num_cases`, `faithfulness`, `traits`, `mosaics`, `sanity`: numbers,
            text, lists and dicts only. A figure is `value` with `low` and `high` (95 %, case
            bootstrap; None with fewer than three cases) and `num_patches`, those on which it is
            defined; where there is none, `reason`.
        """
        case = panel["case"].to_numpy()
        with _timed("faithfulness"):
            faithfulness = self._measure_faithfulness(case, pixels, maps)
        with _timed("traits of maps"):
            traits = self._measure_traits(case, pixels, maps)
        with _timed("sanity"):
            untrained, sanity = self._check_sanity(pixels, maps)
        with _timed("mosaics"):
            plan = plan_mosaics(
                test,
                num_mosaics=self._config.num_mosaics,
                confidence=_MOSAIC_CONFIDENCE,
                seed=self._seed,
            )
            mosaics = self._measure_mosaics(plan, store, untrained)
        return {
            "num_patches": len(panel),
            "num_cases": int(panel["case"].nunique()),
            "methods": {name: METHODS[name].title for name in self._methods},
            "faithfulness": faithfulness,
            "traits": traits,
            "mosaics": mosaics,
            "sanity": sanity,
        }

    def _measure_faithfulness(
        self, case: np.ndarray, pixels: np.ndarray, maps: Maps
    ) -> dict[str, Any]:
        num_maps = len(maps) + len(BASELINE_MAPS)
        score = create_score(
            self._subject.model,
            self._subject.mean_embedding,
            size_px=self._subject.size_px,
            device=self._subject.device,
            num_patches=len(pixels) * num_passes(_NUM_STEPS) * num_maps,
        )
        perturbations = Perturbations(pixels, score, num_steps=_NUM_STEPS, seed=self._seed)
        rivals = {name: draw(pixels, self._seed) for name, draw in BASELINE_MAPS.items()}
        # the first of the scores is the fused logit
        measured = {
            name: perturbations.measure(by_source[FUSED], 0) for name, by_source in maps.items()
        } | {name: perturbations.measure(each, 0) for name, each in rivals.items()}
        chance = measured["random"]
        of_fused = {
            name: {key: self._figure(values[key], case) for key in HIGHER_IS_BETTER}
            | {
                f"{key}_gain": self._figure(
                    (values[key] - chance[key]) * (1 if higher else -1), case
                )
                for key, higher in HIGHER_IS_BETTER.items()
            }
            for name, values in measured.items()
        }
        return {FUSED: of_fused}

    def _measure_traits(self, case: np.ndarray, pixels: np.ndarray, maps: Maps) -> dict[str, Any]:
        ground = find_ground(pixels)
        grid = -(-self._subject.size_px // _CAM_STRIDE_PX)
        best = {
            "cam": self._figure(best_enrichment(ground.haematoxylin, grid), case),
            "pixel": self._figure(best_enrichment(ground.haematoxylin, pixels.shape[1]), case),
        }
        few = self._choose_few(len(pixels))
        noisy = add_noise(pixels[few], self._seed)

        def describe(each: np.ndarray) -> dict[str, Any]:
            return {
                "enrichment": self._figure(enrichment(each, ground.haematoxylin), case),
                "background_share": self._figure(
                    mass_share(each, ground.white), case, interval=bootstrap_share
                ),
                "empty_rate": self._figure(is_empty(each), case, interval=bootstrap_share),
            }

        described: dict[str, Any] = {}
        for name, by_source in maps.items():
            shaken = self._explainer.explain(name, noisy)
            described[name] = {
                "resolution": "cam" if isinstance(METHODS[name].how, Cam) else "pixel",
                "sources": {
                    source: describe(each)
                    | {
                        "noise_sensitivity": self._figure(
                            relative_change(each[few], shaken[source]), case[few]
                        )
                    }
                    for source, each in by_source.items()
                },
            }
            backbones = [each for source, each in by_source.items() if source != FUSED]
            if len(backbones) > 1:
                described[name]["agreement"] = self._figure(agreement(backbones), case)
        return {
            "best_enrichment": best,
            "background_area": self._figure(
                ground.white.mean(axis=(1, 2)), case, interval=bootstrap_share
            ),
            "methods": described,
            "baselines": {
                name: describe(draw(pixels, self._seed)) for name, draw in BASELINE_MAPS.items()
            },
        }

    def _check_sanity(self, pixels: np.ndarray, maps: Maps) -> tuple[Explainer, dict[str, Any]]:
        """Return what explains the untrained network, and the verdicts."""
        few = self._choose_few(len(pixels))
        images = to_images(
            torch.from_numpy(pixels), size_px=self._subject.size_px, device=self._subject.device
        )
        figures: dict[str, Any] = {
            name: {source: {} for source in by_source} for name, by_source in maps.items()
        }
        damaged = self._explainer
        for step in STEPS:
            damaged = self._explain_damaged(step, images)
            for name, by_source in maps.items():
                for source, other in damaged.explain(name, pixels[few]).items():
                    alike = similarity(by_source[source][few], other)
                    figures[name][source][step] = {
                        key: round(float(values.mean()), 6) for key, values in alike.items()
                    }
        failed = {
            name: [
                source
                for source, steps in by_source.items()
                if not changes(steps[STEPS[-1]]["signed"])
            ]
            for name, by_source in figures.items()
        }
        for name, sources in failed.items():
            if sources:
                log.warning(
                    "%s FAILS the sanity check for %s: its maps stay as they were when all "
                    "parameters are replaced",
                    METHODS[name].title, ", ".join(sources),
                )  # fmt: skip
        return damaged, {
            "largest_similarity": MAX_SIMILARITY,
            "num_patches": len(pixels[few]),
            "similarity": figures,
            "failed": {name: sources for name, sources in failed.items() if sources},
        }

    @torch.no_grad()
    def _explain_damaged(self, step: str, images: Tensor) -> Explainer:
        damaged = randomised(self._subject.model, step, images, seed=self._seed)
        # the mean training embedding of a network that saw no training: that of the patches here
        mean = torch.cat(damaged.embed(images), dim=1).mean(dim=0)
        return self._subject.explain_with(damaged, mean)

    def _measure_mosaics(
        self, plan: MosaicPlan, store: np.ndarray, untrained: Explainer
    ) -> dict[str, Any]:
        pictures = join_mosaics(store, plan.rows)
        facts = {
            "num_mosaics": len(pictures),
            "num_cases": len(set(plan.case)),
            "num_cases_left_out": plan.num_cases_left_out,
            "confidence": _MOSAIC_CONFIDENCE,
        }
        if len(pictures) == 0:
            log.info("no mosaic: no case has one confident IDC+ and three confident IDC- patches")
            return facts | {"reason": "no case has enough confident patches"}

        def point(maps: np.ndarray) -> dict[str, Any]:
            shares = pointing_share(maps, plan.right_cell)
            return self._figure(shares, plan.case, interval=bootstrap_share)

        shares = {
            kind: {
                name: {
                    source: point(maps)
                    for source, maps in explainer.explain(name, pictures).items()
                }
                for name in self._methods
            }
            for kind, explainer in (("trained", self._explainer), ("untrained", untrained))
        }
        baselines = {
            name: point(draw(pictures, self._seed)) for name, draw in BASELINE_MAPS.items()
        }
        thrown_off = self._find_unreliable(pictures, store[plan.rows.ravel()])
        ranked_by = [each for each in self._explainer.sources[:-1] if each not in thrown_off]
        if not thrown_off or not ranked_by:
            ranked_by = [FUSED]
        trained = shares["trained"]
        ranking = sorted(
            self._methods,
            key=lambda name: -sum(trained[name][source]["value"] for source in ranked_by),
        )
        return (
            facts
            | shares
            | {
                "baselines": baselines,
                "thrown_off": thrown_off,
                "ranked_by": ranked_by,
                "ranking": ranking,
            }
        )

    def _find_unreliable(self, pictures: np.ndarray, cells: np.ndarray) -> list[str]:
        thrown_off = find_unreliable(
            self._explainer.members,
            self._explainer.contributions(pictures),
            self._explainer.contributions(cells),
        )
        if thrown_off:
            log.warning(
                "mosaics throw %s off: its maps and the fused ones mean nothing there, and methods "
                "are ranked by the other backbones; train at a larger model.size_px",
                ", ".join(thrown_off),
            )
        return thrown_off

    def _choose_few(self, num_patches: int) -> np.ndarray:
        """Return places all over the panel, whose order is by label and stain."""
        number = min(num_patches, max(_MIN_SANITY_PATCHES, num_patches // _SANITY_SHARE))
        return np.linspace(0, num_patches - 1, number).round().astype(np.int64)

    def _figure(
        self, values: np.ndarray, case: np.ndarray, interval: _Interval = bootstrap_mean
    ) -> dict[str, Any]:
        defined = np.isfinite(values)
        num_patches = int(defined.sum())
        if num_patches == 0:
            return {"num_patches": 0, "reason": "undefined on every patch"}
        kept, cases = values[defined].astype(np.float64), case[defined]
        if len(set(cases)) < MIN_CASES:
            mean = round(float(kept.mean()), 6)
            return {"value": mean, "low": None, "high": None, "num_patches": num_patches}
        found = interval(kept, cases, self._bootstrap)
        ends = {key: round(getattr(found, key), 6) for key in ("value", "low", "high")}
        return ends | {"num_patches": num_patches}


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    log.info("scoring the explanations: %s", what)
    yield
    log.info("scored the explanations, %s: %.1f s", what, time.monotonic() - start)
