"""`params.yaml` as frozen classes: a wrong key or value is one readable line before anything runs.

No field has a default here: the file is the only home of a value.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from idc.core.errors import InputError
from idc.core.files import load_yaml
from idc.core.removed_parameters import explain_removed

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MIN_FOLDS, MAX_FOLDS = 3, 50
NumFolds = Annotated[int, Field(ge=MIN_FOLDS, le=MAX_FOLDS)]
Precision = Literal["auto", "fp32", "bf16"]
"""Arithmetic of a network; `auto` is bf16 where that is faster on this machine."""
Flag = Literal["sliver", "blank", "near_blank", "out_of_focus", "ink"]
ExplanationMethod = Literal[
    "saliency", "input_x_gradient", "smooth_grad", "integrated_gradients", "occlusion",
    "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "eigen_cam", "score_cam", "ablation_cam",
]  # fmt: skip
"""A test compares them with the table in `idc.explain.maps.methods`, which needs torch."""

_MAX_SHOWN = 200  # characters of a wrong value or key
_SENSITIVITY_RULE = re.compile(r"sensitivity\s*>=\s*(\d+(?:\.\d*)?|\.\d+)")


def required_sensitivity(threshold_rule: str) -> float | None:
    """Return x of the threshold rule `sensitivity >= x`, and None of `youden` and `f1`.

    Raises:
        ValueError: If it is another rule, or x is not above 0 and at most 1.
    """
    if threshold_rule.strip() in ("youden", "f1"):
        return None
    match = _SENSITIVITY_RULE.fullmatch(threshold_rule.strip())
    if not match:
        raise ValueError("a rule is youden, f1 or such as `sensitivity >= 0.9`")
    required = float(match[1])
    if not 0.0 < required <= 1.0:
        raise ValueError(f"the sensitivity must be above 0 and at most 1, not {match[1]}")
    return required


def _spell_threshold_rule(rule: str) -> str:
    """Check the rule and write it in one way: another spelling is not another parameter."""
    if required_sensitivity(rule) is None:
        return rule.strip()
    return f"sensitivity >= {rule.partition('>=')[2].strip()}"


ThresholdRule = Annotated[str, AfterValidator(_spell_threshold_rule)]


class Section(BaseModel):
    """Base of every section: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class IngestConfig(Section):
    """How raw archives become the pixel store and its index."""

    max_unreadable_share: Share
    """Share of patches that may fail to decode and be quarantined; above it the stage stops."""


class SampleConfig(Section):
    """How the manifest is drawn from the index."""

    num_patches: Annotated[int, Field(ge=2, multiple_of=2)] | Literal["all"]
    """Patches in the manifest, half per class; `all` takes the whole pool, unbalanced."""
    allow_fewer: bool
    """Where the pool is smaller: take as many as balance allows instead of stopping."""
    max_per_case: Annotated[int, Field(ge=1)] | None
    """At most so many patches of one case, over both classes; null sets no cap."""
    exclude_flags: tuple[Flag, ...]
    """Quality flags that keep a patch out of the manifest."""


class SubsetFractions(Section):
    """Share of the patches that each held-out set should get; train takes the rest."""

    val: Share
    """For early stopping, calibration and the threshold."""
    gate: Share
    """For promotion decisions only."""
    test: Share
    """For the reported figures only."""

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "SubsetFractions":
        if self.val + self.gate + self.test >= 1.0:
            raise ValueError("val + gate + test must stay below 1, the rest is train")
        return self


class SubsetLists(Section):
    """Files of case ids (one a line) under `data/case_lists`, one per subset."""

    train: str | None
    """Cases for training."""
    val: str | None
    """Cases for validation."""
    gate: str | None
    """Cases for promotion decisions."""
    test: str | None
    """Cases for the reported figures."""


class FoldsConfig(Section):
    """Cross-validation: cases (mode `case`) or patches (`patch`) in folds of equal size."""

    num_folds: NumFolds
    """Folds in all."""
    test_fold: Annotated[int, Field(ge=0)]
    """The fold (from 0) that is tested; the next one is val, the others train."""

    @model_validator(mode="after")
    def _name_a_fold_that_exists(self) -> "FoldsConfig":
        if self.test_fold >= self.num_folds:
            raise ValueError(f"test_fold must be below num_folds = {self.num_folds}")
        return self


class SplitConfig(Section):
    """How cases (or patches) are assigned to train, val, gate and test."""

    mode: Literal["case", "patch", "lists"]
    """`case`: whole cases; `patch`: patches at random, which leaks; `lists`: named cases."""
    fractions: SubsetFractions
    """Target shares of the patches in the modes `case` and `patch`. In mode `lists` without a list
    for val, `val` of the train cases' patches moves there, by whole cases."""
    folds: FoldsConfig | None
    """Modes `case` and `patch`: k-fold cross-validation instead of the fixed subsets; null for
    those."""
    lists: SubsetLists
    """Case lists of the mode `lists`."""
    rest: Literal["train", "drop"]
    """Mode `lists`: where cases on no list go."""
    exclude: str | None
    """A case list whose cases take no part at all, whatever the mode; null excludes none."""
    max_train_cases: Annotated[int, Field(ge=1)] | None
    """At most so many cases on train, by an order that `seeds.data` makes: fewer are the beginning
    of more. The other sets do not change. Null keeps all."""
    max_train_patches: Annotated[int, Field(ge=2, multiple_of=2)] | None
    """At most so many patches on train, at most half of them of one class: the first of the
    manifest, so fewer are the beginning of more. The other sets do not change. Null keeps all."""

    @model_validator(mode="after")
    def _fold_no_lists(self) -> "SplitConfig":
        if self.folds is not None and self.mode == "lists":
            raise ValueError("folds needs mode case or patch, not lists; set folds to null")
        return self


# of the parameters and of a trained model's spec
MAX_BACKBONES = 16
SizePx = Annotated[int, Field(ge=32, le=512)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


def short_name(backbone: str) -> str:
    """Return what tables, metrics and reports call a backbone: of a place, its last part.

    Example: `UNI2-h` of `hf-hub:MahmoodLab/UNI2-h?act_layer=SiLU`.
    """
    if ":" not in backbone:
        return backbone
    place = backbone.partition("?")[0]
    return re.sub(r"[^\w.-]", "_", place.rstrip("/").rpartition("/")[2])


class ModelConfig(Section):
    """The fusion CNN."""

    backbones: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_BACKBONES)]
    """timm model names, or `hf-hub:OWNER/REPOSITORY`, or `local-dir:FOLDER` as timm saves models,
    these two with arguments of the network if need be (`?mlp_layer=SwiGLUPacked&act_layer=SiLU`);
    their pooled embeddings are concatenated in this order."""
    pretrained: Annotated[str, Field(min_length=1)]
    """`imagenet` (through timm), `packaged` (by pip, of few backbones), `none`, or a folder holding
    `<backbone>.safetensors`."""
    size_px: SizePx
    """Edge length in pixels that a 50x50 patch is resized to."""
    dropout: Dropout
    """Dropout probability before the head."""
    aux_heads: bool
    """A head of its own on each backbone, which learns beside the fusion head."""
    texture_member: bool
    """After the training, learn a dictionary of textures with a logistic regression (Coates & Ng
    2011) on the training patches, and let the logit be the mean of the CNN's and its own."""
    freeze_backbones: bool
    """Keep the backbones as they come and train the heads alone, on embeddings computed once."""

    @model_validator(mode="after")
    def _name_each_backbone_once(self) -> "ModelConfig":
        if len({short_name(backbone) for backbone in self.backbones}) != len(self.backbones):
            raise ValueError("backbones must differ from each other")
        return self


class AugmentConfig(Section):
    """Random changes of training patches; the pixels of val, gate and test stay as they are."""

    d4: bool
    """One of the eight symmetries of the square, uniformly."""
    brightness: Share
    """Largest relative change of brightness."""
    contrast: Share
    """Largest relative change of contrast."""
    saturation: Share
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)]
    """Largest shift of hue, as a share of the colour circle."""
    he_stain_prob: Share
    """Probability of jittering the haematoxylin and eosin concentrations."""


class TrainConfig(Section):
    """The training loop."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the training patches at most."""
    patience: Annotated[int, Field(ge=1)]
    """Epochs without a better val AUROC after which training stops."""
    batch_size: Annotated[int, Field(ge=2)]
    """Patches per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    """Peak rate, reached by a linear warm-up and left along half a cosine (Loshchilov & Hutter
    2017)."""
    backbone_rate_factor: Annotated[float, Field(gt=0.0, le=1.0)]
    """Rate of the backbones as a share of the heads' rate; below 1 for pretrained ones."""
    weight_decay: Annotated[float, Field(ge=0.0)]
    """Decoupled weight decay of AdamW."""
    class_weights: Literal["balanced", "none"]
    """`balanced`: inverse to the class counts of the training set."""
    precision: Precision
    """Arithmetic of the forward and backward pass."""


class BaselinesConfig(Section):
    """What the fusion CNN must beat."""

    names: tuple[Literal["trees", "dictionary", "plain_cnn"], ...]
    """Simple models trained on the same patches, which the fusion CNN must beat: boosted trees on
    colour and edges, a texture dictionary, a plain CNN of four blocks. Beside them the colour
    baseline is always fitted."""


class PredictConfig(Section):
    """How patches are scored."""

    d4_average: bool
    """Average the logits over the eight symmetries of the square, at eight times the cost."""
    precision: Precision
    """Arithmetic of the backbones; bf16 moves probabilities by up to .02 from those of fp32, in
    which models are served, and `auto` differs from machine to machine."""


class EvaluateConfig(Section):
    """Operating point and metrics."""

    context: Literal["none", "mean9", "gaussian"]
    """Beside each patch alone, also report means of the calibrated log-odds over it and the pool
    patches around it, with a calibration and a threshold of their own from val: `mean9` over the up
    to eight that touch it, `gaussian` by their distance, its width fitted on val."""
    threshold_rule: ThresholdRule
    """What chooses the threshold on val: `youden` and `f1` maximise Youden's J and the F1 of IDC+,
    `sensitivity >= 0.9` (any share above 0) takes the highest that finds as many of IDC+."""
    num_replicates: Annotated[int, Field(ge=100)]
    """Replicates of the case bootstrap, wherever intervals are computed."""


class ExplainConfig(Section):
    """Which test patches are explained, and how."""

    methods: tuple[ExplanationMethod, ...]
    """Attribution methods, in the order of the sheets' columns. Costly: `score_cam` and
    `ablation_cam` take thousands of forward passes a patch."""
    num_reference: Annotated[int, Field(ge=1, le=512)]
    """Patches of the reference panel, which is the same for every model."""
    num_per_group: Annotated[int, Field(ge=1, le=64)]
    """Errors panel: patches for each of true/false positives/negatives."""
    num_slides: Annotated[int, Field(ge=0, le=50)]
    """Complete cases laid out as a whole, the largest first; 0 draws none."""
    cam_layers: dict[str, str] | None
    """timm module path by backbone, such as `{resnet50: layer3}`, whose output the CAMs read;
    others, and null: the deepest layer of stride 16."""
    num_mosaics: Annotated[int, Field(ge=0, le=1000)]
    """Methods are scored on the reference panel and on at most so many 2x2 mosaics of test patches,
    each at the cost of eight patches; 0 scores no method."""

    @model_validator(mode="after")
    def _name_methods_once(self) -> "ExplainConfig":
        if not self.methods:  # min_length would be reported too where a name is wrong
            raise ValueError("methods must name at least one")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods must differ from each other")
        return self


class PublishConfig(Section):
    """What MLflow is told."""

    experiment: Annotated[str, Field(min_length=1)]
    """MLflow experiment that the run belongs to."""
    model_name: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")]
    """Name in the model registry."""
    move_challenger: bool
    """Whether the alias `challenger` moves to this result's model version."""
    run_name: Annotated[str, Field(min_length=1)] | None
    """Name of the run in MLflow; null puts it together from backbones, size and patches."""
    forbid_licences: tuple[Annotated[str, Field(min_length=1)], ...]
    """Licences of pretrained weights under which no model is published, in any case of letters;
    `cc-by-nc*` names all that begin so, `unknown` those of which the source says nothing."""


class PromotionConfig(Section):
    """When a challenger becomes the champion, by the patches of the gate cases."""

    max_sensitivity_loss: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Margin on the difference in sensitivity; its lower bound must lie above minus this."""
    max_brier_rise: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Margin on the difference in Brier score; its upper bound must lie below this."""
    first_balanced_accuracy: Share
    """Without a champion: the lower bound of the balanced accuracy must lie above this."""


class DriftConfig(Section):
    """From when on new data are said to differ from those the champion learnt from."""

    max_shift: Annotated[float, Field(gt=0.0)]
    """Largest shift of the mean of a stain or colour statistic, or of the embedding, in standard
    deviations of the champion's training patches."""
    max_share_difference: Share
    """Largest difference in the share of IDC+."""


class RuntimeConfig(Section):
    """Where and how fast: may change the last bits of a result, never its meaning."""

    device: Literal["auto", "cpu", "cuda"]
    """`auto` takes the GPU when there is one."""
    num_processes: Annotated[int, Field(ge=1, le=256)] | None
    """Processes that read and decode archives; null takes all cores."""
    scoring_batch_size: Annotated[int, Field(ge=1)]
    """Patches per forward pass where no gradient is needed."""
    num_threads: Annotated[int, Field(ge=1)] | None
    """CPU threads of torch; null takes all cores."""
    num_devices: Annotated[int, Field(ge=1, le=64)]
    """Processes that train together, one per GPU; above 1 `train` starts torchrun."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.0)]
    """Seconds of training between two checkpoints."""


class SeedsConfig(Section):
    """Seeds of all that is drawn at random."""

    data: Seed
    """Of the manifest's draw and the assignment to subsets."""
    training: Seed
    """Of initial weights, order, augmentation and dropout, of the texture dictionary, and of the
    baselines."""
    statistics: Seed
    """Of bootstraps, of the reference panel's draw, and of the noise of SmoothGrad."""


class Params(Section):
    """All of `params.yaml`."""

    seeds: SeedsConfig
    ingest: IngestConfig
    sample: SampleConfig
    split: SplitConfig
    model: ModelConfig
    augment: AugmentConfig
    train: TrainConfig
    baselines: BaselinesConfig
    predict: PredictConfig
    evaluate: EvaluateConfig
    explain: ExplainConfig
    publish: PublishConfig
    promotion: PromotionConfig
    drift: DriftConfig
    runtime: RuntimeConfig


NON_STAGE_SECTIONS = ("promotion", "drift", "runtime")
"""Sections that no stage's result depends on."""


def load_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        InputError: One line per fault, naming the file, the key, the value and the rule.
    """
    content = load_yaml(path, if_missing="run from the project's root")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        faults = [line for fault in error.errors() for line in _describe(path, fault)]
        raise InputError("\n".join(faults)) from None


def flatten(params: Params) -> dict[str, str]:
    """Return every value under its dotted key, as MLflow records it.

    Example: `{"train.epochs": "12", "split.fractions.val": "0.15", ...}`.
    """
    return {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in dot_keys(params.model_dump(mode="json")).items()
    }


def dot_keys(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what nested mappings hold under dotted keys, each beginning with `prefix`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        below = isinstance(value, Mapping)
        flat |= dot_keys(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return flat


def _describe(path: Path, fault: Any) -> list[str]:  # noqa: ANN401  (pydantic's ErrorDetails)
    key = _shorten(".".join(str(part) for part in fault["loc"]) or "the whole file")
    value = _shorten(repr(fault["input"]))
    if fault["type"] == "extra_forbidden":
        keys = list(dot_keys({key: fault["input"]})) or [key]
        return [f"{path}: {_explain_unknown(_shorten(each))}" for each in keys]
    if fault["type"] == "missing":
        return [f"{path}: {key} is missing; give it a value"]
    rule = fault["msg"].removeprefix("Value error, ")
    return [f"{path}: {key} = {value}: {rule[0].lower()}{rule[1:]}"]


def _shorten(text: str) -> str:
    """Return one line of it."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]} …"


def _explain_unknown(key: str) -> str:
    return explain_removed(key) or f"{key} is not a parameter; remove it or fix its spelling"
