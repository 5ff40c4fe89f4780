"""Which attribution method to believe: all of them where the answer is known. `make bench-explain`.

Small networks learn synthetic archives from scratch, and every method is asked where the evidence
for IDC+ lies:

1. in the tumour nests, of both difficulties: pointing game, relevance mass, IoU;
2. label randomisation (Adebayo et al. 2018): do maps of a network that learnt permuted labels
   differ from those of the real one more than those of another seed do?
3. in a planted cue (`idc synth --shortcut`), on held-out IDC- patches that carry it: the share of
   the evidence in it, by a network that learnt with the cue and by one that never saw it.

Maps that know nothing of the network stand beside: random, a blob in the centre, darkness.
Intervals are 95 % by case bootstrap.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.known_answers import (
    MEASURES,
    TOLERANCE_PX,
    Space,
    Views,
    create_space,
    draw_cue_views,
    draw_nest_views,
    relevance_mass,
)
from benchmarks.measuring import describe_machine, describe_versions
from idc.core import layout
from idc.core.config import Params, load_params
from idc.core.errors import InputError
from idc.core.processes import count_cores
from idc.data.batches.loader import BatchPlan
from idc.data.subsets import select_subset
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate, bootstrap_mean, bootstrap_share
from idc.evaluation.statistics.metrics import auroc
from idc.explain.maps.attributions import AttributionBudget
from idc.explain.maps.explainer import Explainer
from idc.explain.maps.methods import METHODS
from idc.explain.panels.panel import FUSED
from idc.explain.scores.baseline_maps import BASELINE_MAPS
from idc.explain.scores.faithfulness import block_means
from idc.explain.scores.similarity import rank_correlation
from idc.models.networks.device import choose_device
from idc.models.networks.fusion import create_fusion
from idc.models.scoring.patches import PatchScorer
from idc.synthetic import ArchivePlan, Cue, Shortcut
from idc.synthetic.slide import Difficulty
from idc.training.checkpoint import Checkpoint
from idc.training.class_weights import weigh_classes
from idc.training.loop import train_fusion
from idc.training.ranks import Ranks
from idc.training.sources import ImageSource, TrainingData

log = logging.getLogger(__name__)

SEED = 17
NUM_REPLICATES = 2000
CUES: tuple[Cue, ...] = get_args(Cue)
_USUAL = [name for name, method in METHODS.items() if not method.costly]
_BASELINE_TITLES = {
    "random": "*random map*",
    "centre": "*blob in the centre*",
    "darkness": "*darkness*",
}
_NEVER_S = 1e9  # no checkpoint within a training of seconds

Maps = dict[str, dict[str, np.ndarray]]
"""By method, then by backbone and `fused`: float32 (views, 50, 50)."""


@dataclass(frozen=True)
class Trained:
    """A network that can be asked."""

    explainer: Explainer
    test_auroc: float

    def logit(self, pixels: np.ndarray) -> np.ndarray:
        """Return the fused logit of each patch, float32 (patches,)."""
        return self.explainer.logits(pixels)[:, 0]


def main() -> None:
    """Print Markdown tables as they are ready; what is going on goes to standard error."""
    options = parse()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    print(describe_machine())
    print(describe_versions("torch", "timm", "grad-cam", "captum"))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for text in compare(options, Path(scratch)):
                print(f"\n{text}", flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def compare(options: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """Run all three parts and yield paragraphs and tables in Markdown.

    Args:
        options: As `parse` returns them.
        scratch: Empty folder.

    Raises:
        InputError: If sizes are too small for a subset, or for an interval.
    """
    params = _parameters(options)
    real = _space(scratch / "real", params, options, difficulty="real")
    network = _train("real", real, params)
    views = draw_nest_views(real, options.views, SEED)
    maps, seconds = _explain(network, views, options.methods)
    yield _describe_setting(options, real)
    yield from _nest_tables("real", network, views, maps, seconds)
    yield from _known_nests("texture", params, options, scratch)
    few = Views(*(part[: options.few_views] for part in vars(views).values()))
    yield from _randomised_labels(real, params, options, few, maps)
    yield from _shortcuts(scratch, real, network, params, options)


def _known_nests(
    difficulty: Difficulty, params: Params, options: argparse.Namespace, scratch: Path
) -> list[str]:
    space = _space(scratch / difficulty, params, options, difficulty=difficulty)
    network = _train(difficulty, space, params)
    views = draw_nest_views(space, options.views, SEED)
    maps, seconds = _explain(network, views, options.methods)
    return _nest_tables(difficulty, network, views, maps, seconds)


def _nest_tables(
    difficulty: Difficulty, network: Trained, views: Views, maps: Maps, seconds: Mapping[str, float]
) -> list[str]:
    """Rank the fused maps of all methods, and tell the relevance mass by backbone."""
    fused = {name: by_source[FUSED] for name, by_source in (maps | _baseline_maps(views)).items()}
    scores = {
        name: {
            measure: _share(function(heat, views.masks), views.case)
            for measure, function in MEASURES.items()
        }
        for name, heat in fused.items()
    }
    rows = [
        [
            _title(name),
            *(_cell(estimate) for estimate in scores[name].values()),
            f"{100 * _empty_share(fused[name]):.0f} %",
            f"{1000 * seconds[name]:.0f}" if name in seconds else "",
        ]
        for name in rank_by_mean_place(scores)
    ]
    sources = list(next(iter(maps.values())))
    by_source = [
        [
            _title(name),
            *(
                _cell(_share(relevance_mass(maps[name][source], views.masks), views.case))
                for source in sources
            ),
        ]
        for name in maps
    ]
    area, _ = _mean_area(views)
    called = float((network.logit(views.pixels) > 0).mean())
    return [
        f"**Tumour nests, `{difficulty}`**: test AUROC {network.test_auroc:.3f}; {_count(views)}, "
        f"{100 * called:.0f} % predicted IDC+; nests fill {100 * area:.0f} %. Fused maps, sorted "
        "by the mean of the three places; an empty map counts as 0.",
        _markdown(["method", *MEASURES, "empty", "ms a patch"], rows),
        "Relevance mass by backbone:",
        _markdown(["method", *sources], by_source),
    ]


def _randomised_labels(
    space: Space, params: Params, options: argparse.Namespace, views: Views, real_maps: Maps
) -> list[str]:
    """Compare the real network's maps with those of permuted labels, and of another seed."""
    other_seed = _with(params, seeds={"training": params.seeds.training + 1})
    networks = {
        "permuted labels": _train("permuted labels", space, params, permuted=True),
        "another seed": _train("another seed", space, other_seed),
    }
    alike: dict[str, dict[str, np.ndarray]] = {name: {} for name in options.methods}
    for which, network in networks.items():
        maps, _ = _explain(network, views, options.methods)
        for name in options.methods:
            first, second = (block_means(each[name][FUSED]) for each in (real_maps, maps))
            alike[name][which] = rank_correlation(first[: len(views)], second)
    rows = []
    for name, by_network in alike.items():
        gain = _mean(by_network["another seed"] - by_network["permuted labels"], views.case)
        rows.append(
            [
                _title(name),
                *(_cell(_mean(values, views.case)) for values in by_network.values()),
                _cell(gain),
                "passes" if gain.low > 0 else "**fails**",
            ]
        )
    return [
        f"**Label randomisation**, `real`, {len(views)} of the same views: rank correlation of the "
        "real network's fused maps (means of 5x5 px) with those of a network trained on permuted "
        f"labels (test AUROC {networks['permuted labels'].test_auroc:.3f}) and of one trained as "
        f"the real one from another seed ({networks['another seed'].test_auroc:.3f}). A method "
        "passes if its maps resemble the second more than the first.",
        _markdown(["method", *networks, "difference", "verdict"], rows),
    ]


def _shortcuts(
    scratch: Path, plain: Space, without: Trained, params: Params, options: argparse.Namespace
) -> list[str]:
    """Tell for each cue how much of the evidence lies in it, with and without having learnt it."""
    names = [*options.methods, *BASELINE_MAPS]
    cells: dict[str, list[str]] = {name: [] for name in names}
    lines = []
    for cue in CUES:
        space = _space(scratch / cue, params, options, difficulty="real", shortcut=Shortcut(cue))
        network = _train(cue, space, params)
        views = draw_cue_views(space, options.few_views, SEED)
        lines.append(_describe_cue(cue, plain, network, without, views))
        maps = _explain(network, views, options.methods)[0] | _baseline_maps(views)
        others = _explain(without, views, options.methods)[0]
        _, area = _mean_area(views)
        for name in names:
            share = relevance_mass(maps[name][FUSED], views.masks)
            other = relevance_mass(others.get(name, maps[name])[FUSED], views.masks)
            above_area = _mean(share - area, views.case).low > 0
            above_other = _mean(share - other, views.case).low > 0
            value = _cell(_share(share, views.case))
            cells[name] += [f"**{value}**" if above_area and above_other else value]
            cells[name] += [_cell(_share(other, views.case)) if name in others else ""]
    head = ["method", *(f"{cue}{part}" for cue in CUES for part in ("", ", never seen"))]
    return [
        "**Shortcuts**: share of the fused map's positive evidence in the cue's mask, on held-out "
        "IDC- patches that carry it, by a network that learnt with the cue (90 % of IDC+, 5 % of "
        "IDC-) and by one that never saw it. Bold: the method reveals the cue, its share is above "
        "the cue's share of the area and above what the other network gives.",
        "\n".join(f"- {line}" for line in lines),
        _markdown(head, [[_title(name), *row] for name, row in cells.items()]),
    ]


def _describe_cue(cue: str, plain: Space, network: Trained, without: Trained, views: Views) -> str:
    bare = plain.pixels[views.rows]
    shifts = [
        float(np.mean(each.logit(views.pixels) - each.logit(bare))) for each in (network, without)
    ]
    area, _ = _mean_area(views)
    rows, labels = select_subset(plain.splits, "test")
    off = auroc(labels, network.logit(plain.pixels[rows]))
    return (
        f"`{cue}`: {_count(views)}; the cue fills {100 * area:.0f} %, and moves the logit by "
        f"{shifts[0]:+.2f} where it was learnt, by {shifts[1]:+.2f} where not; test AUROC of the "
        f"network that learnt it {network.test_auroc:.3f}, without the cue {off:.3f}"
    )


def _space(
    folder: Path,
    params: Params,
    options: argparse.Namespace,
    *,
    difficulty: Difficulty,
    shortcut: Shortcut | None = None,
) -> Space:
    start = time.perf_counter()
    plan = ArchivePlan(
        num_cases=options.cases,
        patches_per_case=options.patches_per_case,
        difficulty=difficulty,
        shortcut=shortcut,
        seed=SEED,
        nested=False,
    )
    space = create_space(folder, params, plan)
    log.info("archive %s: %d patches, %.0f s", folder.name, len(space.pixels), _since(start))
    return space


def _train(what: str, space: Space, params: Params, *, permuted: bool = False) -> Trained:
    """Train as the stage does, without MLflow.

    Args:
        what: Its name, for the log.
        space: Archive and subsets.
        params: All sections.
        permuted: Whether the labels of train and val are permuted among the patches of the subset.
    """
    start = time.perf_counter()
    torch.manual_seed(params.seeds.training)
    device = choose_device(params.runtime)
    train, val = (select_subset(space.splits, name) for name in ("train", "val"))
    if permuted:
        rng = np.random.default_rng(params.seeds.training)
        train, val = (each._replace(labels=rng.permutation(each.labels)) for each in (train, val))
    model = create_fusion(params.model)
    source = ImageSource(
        TrainingData(space.pixels, train, val),
        params.model.size_px,
        params.augment,
        BatchPlan(params.train.batch_size, params.seeds.training),
        params.runtime.scoring_batch_size,
        Ranks(device),
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = train_fusion(
            model, source, params.train,
            class_weights=weigh_classes(train.labels, params.train.class_weights),
            checkpoint=Checkpoint(Path(folder), interval_s=_NEVER_S),
            on_epoch=lambda _result, _speed: None,
        )  # fmt: skip
    model.load_state_dict(trained.state)
    scorer = PatchScorer(model, params.model.size_px, params.runtime.scoring_batch_size, device)
    explainer = Explainer(
        model,
        params.model.size_px,
        scorer.mean_embedding(space.pixels, train.rows),
        device,
        AttributionBudget(params.train.batch_size, SEED),
    )
    test_rows, test_labels = select_subset(space.splits, "test")
    reached = auroc(test_labels, scorer.score(space.pixels, test_rows))
    log.info("network %s: test AUROC %.3f, %.0f s", what, reached, _since(start))
    return Trained(explainer, reached)


def _explain(
    network: Trained, views: Views, methods: Sequence[str]
) -> tuple[Maps, dict[str, float]]:
    """Return the maps of every method, and its seconds a patch."""
    maps: Maps = {}
    seconds = {}
    for name in methods:
        start = time.perf_counter()
        maps[name] = network.explainer.explain(name, views.pixels)
        seconds[name] = (time.perf_counter() - start) / len(views)
    log.info("%d views explained, %.0f s", len(views), len(views) * sum(seconds.values()))
    return maps, seconds


def _baseline_maps(views: Views) -> Maps:
    return {name: {FUSED: draw(views.pixels, SEED)} for name, draw in BASELINE_MAPS.items()}


def rank_by_mean_place(scores: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Return the methods sorted by the mean of their places in every measure, the best first."""
    values = {
        name: [estimate.value for estimate in by_measure.values()]
        for name, by_measure in scores.items()
    }
    table = np.array(list(values.values()))
    places = (-table).argsort(axis=0, kind="stable").argsort(axis=0).mean(axis=1)
    names = list(values)
    return [names[number] for number in np.argsort(places, kind="stable")]


def _share(values: np.ndarray, case: np.ndarray) -> Estimate:
    return bootstrap_share(values, case, Bootstrap(NUM_REPLICATES, SEED))


def _mean(values: np.ndarray, case: np.ndarray) -> Estimate:
    return bootstrap_mean(values, case, Bootstrap(NUM_REPLICATES, SEED))


def _since(start: float) -> float:
    return time.perf_counter() - start


def _count(views: Views) -> str:
    return f"{len(views)} views of {len(np.unique(views.case))} test cases"


def _empty_share(maps: np.ndarray) -> float:
    """Return the share of maps without any evidence for IDC+."""
    return float((maps.max(axis=(1, 2)) <= 0).mean())


def _mean_area(views: Views) -> tuple[float, np.ndarray]:
    area = views.masks.mean(axis=(1, 2))
    return float(area.mean()), area


def _title(name: str) -> str:
    return METHODS[name].title if name in METHODS else _BASELINE_TITLES[name]


def _cell(estimate: Estimate) -> str:
    return " ".join(
        (_number(estimate.value), f"[{_number(estimate.low)}, {_number(estimate.high)}]")
    )


def _number(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _describe_setting(options: argparse.Namespace, space: Space) -> str:
    subsets = space.splits["split"].value_counts()
    return (
        f"{', '.join(options.backbones)} from scratch at {options.size_px} px, {options.epochs} "
        f"epochs of {subsets['train']} patches, tested on {subsets['test']}; archives of "
        f"{options.cases} cases, seed {SEED}. Pointing game with a tolerance of {TOLERANCE_PX} px."
    )


def _parameters(options: argparse.Namespace) -> Params:
    return _with(
        load_params(layout.PARAMS),
        sample={"num_patches": "all"},
        split={"mode": "case", "fractions": {"val": 0.15, "gate": 0.0, "test": 0.4}, "folds": None},
        model={
            "backbones": options.backbones,
            "pretrained": "none",
            "size_px": options.size_px,
            "dropout": 0.1,
            "freeze_backbones": False,
        },
        train={
            "epochs": options.epochs,
            "patience": options.epochs,
            "batch_size": 32,
            "learning_rate": 0.002,
        },
        runtime={"num_threads": options.threads, "num_devices": 1},
    )


def _with(params: Params, **sections: Mapping[str, object]) -> Params:
    content = params.model_dump()
    for section, changes in sections.items():
        content[section] |= changes
    return Params.model_validate(content)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without `arguments`, the one this process was started with."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=_USUAL)
    parser.add_argument("--backbones", nargs="+", default=["test_resnet", "test_efficientnet"])
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--patches-per-case", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--views", type=int, default=64, help="patches explained for the nests")
    parser.add_argument("--few-views", type=int, default=32, help="patches for everything else")
    parser.add_argument("--threads", type=int, default=count_cores(), help="CPU threads of torch")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
