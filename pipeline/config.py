"""The recipe: what a YAML file and `--set` may say, checked before anything is written.

One frozen pydantic model a stage, and each stage receives only its own. A field's description is its documentation:
`pipeline init` prints it, and a test holds that every field has one and is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError, nearest

Fraction = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Side = Annotated[int, Field(ge=1, le=4096)]
Resize = Literal["stretch", "crop", "pad"]


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no silent conversions, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )


class SplitConfig(Section):
    """How images are dealt out to train, validation and test."""

    seed: int = Field(0, ge=0, description="which split; the training seed does not move images between splits")
    validation: Fraction = Field(0.15, gt=0, description="share of each class that chooses epochs and settings")
    test: Fraction = Field(0.15, gt=0, description="share of each class that is looked at once, by evaluate")
    group: str | None = Field(
        None, description="regular expression on names: images whose (first group of the) match is equal share a split"
    )

    @field_validator("group")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _something_to_train_on(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave a share for train")
        return self


class TfdsConfig(Section):
    """Where a `tfds:NAME` source is kept and which of its splits stand for which of ours."""

    data_dir: str | None = Field(None, description="prepared data sets; null: TFDS' own, ~/tensorflow_datasets")
    train: str | None = Field(
        None, description="its split for train, slices like train[:80%] too; all three null: by their names"
    )
    validation: str | None = Field(None, description="its split for validation; null beside others: carved from train")
    test: str | None = Field(None, description="its split for test; null beside others: carved from train")


class IngestConfig(Section):
    """Section `ingest`: where the images come from and how they are split."""

    data: str | None = Field(
        None,
        description="a folder with one sub-folder a class, a .csv or .parquet, tfds:NAME or sample:digits; or --data",
    )
    tfds: TfdsConfig = Field(TfdsConfig(), description="for tfds:NAME only")
    split: SplitConfig = Field(SplitConfig(), description="ignored where the source has its own splits")
    on_bad: Literal["quarantine", "stop"] = Field(
        "quarantine", description="quarantine | stop: a bad image is listed and left out, or ends the run"
    )
    relabel: str | None = Field(
        None, description="a CSV of corrected labels, columns id and new_label, laid over the source's"
    )
    allow: tuple[Literal["tiny", "constant", "two_labels"], ...] = Field(
        (), description="not bad after all: images of a side under 8 px, of one colour, or under two labels"
    )
    duplicates: Literal["near", "exact"] = Field(
        "near", description="near | exact: what shares a split: copies re-encoded, resized, cropped or mirrored too"
    )
    rescan: Literal["stat", "content"] = Field(
        "stat", description="stat | content: a file seen before is known by its size and times, or only by its bytes"
    )


class AugmentConfig(Section):
    """Section `augment`: random changes to training images."""

    views: int = Field(
        4, ge=0, le=1000, description="augmented views kept of each training image in features: bank; 0: none"
    )
    seed: int = Field(0, ge=0, description="which augmented views")
    transforms: tuple[str | dict[str, dict[str, Any] | None], ...] = Field(
        (), description="e.g. [{rotate: {degrees: 10}}, flip_left_right]; the README lists them"
    )


class HeadConfig(Section):
    """What stands on the backbone; null takes the backbone's own usual head."""

    pooling: Literal["avg", "max", "flatten"] | None = Field(None, description="avg | max | flatten")
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] | None = Field(
        None, description="units of dense layers before the logits, e.g. [256]"
    )
    dropout: Fraction | None = Field(
        None,
        description="dropped share of what each hidden layer takes in, or the logits where there is none; in [0, 1)",
    )


class ModelConfig(Section):
    """Section `model`: backbone, weights, input and head."""

    backbone: str = Field("efficientnet_lite0", description="`pipeline models` lists them")
    options: dict[str, bool] = Field(
        {}, description="switches of the backbone, e.g. {small_images: true} of resnet18; `pipeline models` lists them"
    )
    weights: str = Field("imagenet", description="imagenet | none | a file (.h5, .weights.h5, .keras)")
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="one side, or [height, width], in pixels; null takes the backbone's default"
    )
    resize: Resize = Field(
        "stretch", description="to image_size: stretch distorts; crop: its middle; pad: all of it, with black borders"
    )
    batch_norm: Literal["frozen", "trained"] | None = Field(
        None, description="statistics of unfrozen BatchNorm layers; null: trained with weights none, else frozen"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="of training; evaluation and export are float32"
    )
    head: HeadConfig = Field(HeadConfig(), description="null fields take the backbone's usual head")


class HeadPhaseConfig(Section):
    """The first phase: the backbone frozen, the head trained."""

    epochs: Epochs = Field(60, description="0 skips the phase")
    learning_rate: Literal["auto"] | LearningRate = Field(
        0.003, description="peak, after warm-up; then cosine decay to 0; auto: the best of several on validation"
    )
    warmup_epochs: float = Field(1, ge=0, description="epochs of linear rise from 0")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled (AdamW)")

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _no_other_word(cls, rate: Any) -> Any:
        if isinstance(rate, str) and rate != "auto":
            raise ValueError("must be a number above 0, or auto")
        return rate


class FineTuneConfig(Section):
    """The second phase: the layers above the cut are trained too."""

    epochs: Epochs = Field(0, description="0 skips the phase")
    from_: str | Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        alias="from",
        description="last frozen layer or block (block5, mixed8), a fraction of the backbone, or input: nothing frozen",
    )
    learning_rate: LearningRate = Field(0.0003, description="of the head, at its peak")
    rate_at_cut: float = Field(
        0.1, gt=0, le=1, description="rate of the lowest trained layer as a share of the head's; geometric in between"
    )
    warmup_epochs: float = Field(1, ge=0, description="epochs of linear rise from 0")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled (AdamW)")


class BankConfig(Section):
    """What the frozen part of the network answers, kept on disk between runs."""

    budget_gb: float = Field(
        20.0, ge=0, description="GiB on disk for all features; what would not fit is computed live, on the same views"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="of augmented views; float16: half the disk, not bit for bit what live training sees"
    )


class TrainConfig(Section):
    """Section `train`: how the weights are found."""

    batch_size: int = Field(32, ge=1, le=65536, description="images a step")
    features: Literal["bank", "live"] = Field(
        "bank",
        description="bank: frozen layers once per image and view, and kept; live: fresh views each epoch",
    )
    bank: BankConfig = Field(BankConfig(), description="for features: bank")
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: rare classes weigh more in the loss"
    )
    label_smoothing: Fraction = Field(0.0, description="share of the target spread over all classes")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup, 0 is off")
    cutmix: float = Field(
        0.0,
        ge=0,
        le=10,
        description="alpha of cutmix, 0 is off; in a bank boxes of features are pasted",
    )
    ema: Fraction = Field(0.0, description="momentum of the moving average of the weights, 0 is off")
    patience: Epochs = Field(10, description="epochs without a better validation loss before a phase ends; 0: never")
    checkpoint_every_steps: int = Field(
        0, ge=0, le=10**9, description="batches between checkpoints; 0: after epochs, as often as it costs little"
    )
    strategy: Literal["none", "mirrored"] = Field("none", description="mirrored: data-parallel over all local GPUs")
    confident_accuracy: float = Field(
        0.95, gt=0, lt=1, description="share of right answers among those that the model calls confident; on validation"
    )
    search: bool = Field(
        False,
        description="true: tries learning rates, weight decays, dropouts, label smoothings; validation chooses",
    )
    head: HeadPhaseConfig = Field(HeadPhaseConfig(), description="first phase")
    fine_tune: FineTuneConfig = Field(FineTuneConfig(), description="second phase")

    @property
    def searched(self) -> tuple[str, ...]:
        """The settings that several values are tried of, none without a search."""
        if self.search:
            return ("learning_rate", "weight_decay", "dropout", "label_smoothing")
        return ("learning_rate",) if self.head.learning_rate == "auto" else ()

    @model_validator(mode="after")
    def _something_to_do(self) -> TrainConfig:
        if not (self.head.epochs or self.fine_tune.epochs):
            raise ValueError("head.epochs and fine_tune.epochs are both 0, so nothing would be trained; raise one")
        return self

    @model_validator(mode="after")
    def _something_to_search_with(self) -> TrainConfig:
        found, instead = "head.learning_rate is auto", "a number as head.learning_rate"
        if self.search:
            found, instead = "search is true", "search=false"
        if self.searched and not self.head.epochs:
            raise ValueError(f"{found} and head.epochs 0, so there is nothing to try; set head.epochs or {instead}")
        if self.searched and self.features == "live":
            raise ValueError(
                f"{found} and features live, where each trial would cost as much as a training; "
                f"set features=bank or {instead}"
            )
        return self


class EvaluateConfig(Section):
    """Section `evaluate`: what is measured on the test split."""

    top_k: int = Field(5, ge=2, le=1000, description="a hit among the k likeliest; capped below the number of classes")
    robustness: bool = Field(
        False, description="true: the score under blur, noise, rotation, darkness, JPEG at five strengths; 25 passes"
    )
    explain: int = Field(3, ge=0, le=100, description="test images to draw what the network sees in; 0: none")


class ExportConfig(Section):
    """Section `export`: what leaves the project."""

    golden: int = Field(
        32,
        ge=0,
        le=1000,
        description="test images copied into the export as its proof; 0: none, should they be private",
    )
    formats: tuple[Literal["saved_model", "onnx", "litert"], ...] = Field(
        ("saved_model",),
        description="onnx, litert (float32, float16 and int8): made beside saved_model, which is always there",
    )
    logged_model: bool = Field(True, description="also put the export into MLflow as a LoggedModel")
    register_: str | None = Field(
        None, alias="register", description="a registered model in MLflow: a verified export is its next candidate"
    )

    @model_validator(mode="after")
    def _something_to_register(self) -> ExportConfig:
        if self.register_ is not None and not self.logged_model:
            raise ValueError(
                f"register is {self.register_!r} and logged_model false, so there is nothing to register; "
                "set logged_model=true or register=null"
            )
        return self


class Config(Section):
    """A whole recipe. The defaults are the photo recipe: a pretrained backbone, frozen, and a new head."""

    task: str = Field("classification", description="what is learnt")
    seed: int = Field(0, ge=0, lt=2**32, description="of training: initial weights, order, dropout; not of splits")
    experiment: str | None = Field(None, min_length=1, description="MLflow experiment; null is the recipe's file name")
    ingest: IngestConfig = Field(IngestConfig(), description="where the images come from")
    augment: AugmentConfig = Field(AugmentConfig(), description="random changes to training images")
    model: ModelConfig = Field(ModelConfig(), description="backbone, weights, input and head")
    train: TrainConfig = Field(TrainConfig(), description="how the weights are found")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="what is measured")
    export: ExportConfig = Field(ExportConfig(), description="what leaves the project")


class _Loader(yaml.SafeLoader):
    """YAML as a recipe needs it: `1e-3` is a number, a date is text, no key stands twice, nothing is referred to."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "references (*name) are not allowed", mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp",)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, where: str) -> Any:
    """Returns the plain value that YAML text stands for.

    Raises:
        ConfigError: The text is not YAML, or carries tags of Python objects; `where` names its origin.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where} is not valid YAML: {problem}") from error


def load_config(path: Path | None, settings: Iterable[str] = ()) -> Config:
    """Returns the recipe in `path` (the defaults without one) with `KEY=VALUE` settings laid over it.

    Raises:
        ConfigError: The file cannot be read, or a key or a value is not allowed; one line that names it.
    """
    tree: Any = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"config {path} cannot be read: {reason}; `pipeline init {path}` writes one") from error
        tree = parse_yaml(text, f"config {path}")
        if tree is None:
            tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must be a mapping of sections, found {type(tree).__name__}")
    return build_config(override(tree, settings))


def override(tree: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of a nested mapping with `a.b.c=value` settings applied; the value is read as YAML.

    Raises:
        ConfigError: A setting has no `=`, or its path runs through something that is not a section.
    """
    result: dict[str, Any] = json.loads(json.dumps(tree, default=str))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting!r} has no '='; write KEY=VALUE, for example train.head.epochs=20")
        *sections, last = key.split(".")
        place: Any = result
        for name in sections:
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
            if not isinstance(place, dict):
                raise ConfigError(f"--set {key}: {name!r} is not a section, so it has no {last!r}")
        place[last] = parse_yaml(text, f"--set {key}")
    return result


def build_config(tree: Mapping[str, Any]) -> Config:
    """Returns the recipe that a nested mapping describes.

    Raises:
        ConfigError: A key or a value is not allowed; the message names the first one and counts the others.
    """
    try:
        # Through JSON, so that strict types still take YAML's lists for tuples.
        return Config.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        # A value that fits no branch of a union fails once a branch; the last one is the most telling.
        by_key = {_keys_of(problem): _explain(problem) for problem in problems}
        first, *others = by_key.values()
        raise ConfigError(first + (f" (and {len(others)} more)" if others else "")) from error


def _keys_of(problem: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the keys that lead to a problem, without the branches of unions ("str", "tuple[...]") among them."""
    parts = [str(part) for part in problem["loc"] if isinstance(part, int) or part not in _BRANCHES]
    return tuple(part for part in parts if "[" not in part)


_BRANCHES = ("str", "int", "float", "constrained-int", "constrained-float")


def _explain(problem: Mapping[str, Any]) -> str:
    location = list(_keys_of(problem))
    if problem["type"] == "extra_forbidden":
        parent, name = location[:-1], location[-1]
        return f"unknown key {'.'.join(location)!r}: {nearest(name, _keys(parent))}"
    key = ".".join(location) or "the config"
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"  # it names what it is about
    found = repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key}: {message}, found {found if len(found) <= 60 else found[:57] + '...'}"


def _keys(path: Iterable[str]) -> list[str]:
    section: type[BaseModel] = Config
    for name in path:
        inner = section.model_fields[name].annotation if name in section.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return [field.alias or name for name, field in section.model_fields.items()]


def dump_yaml(config: Config) -> str:
    """Returns the resolved recipe as YAML; `load_config` reads it back to an equal one."""
    tree = config.model_dump(mode="json", by_alias=True)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def commented_yaml(config: Config) -> str:
    """Returns the recipe as YAML with each field's description as a comment behind it."""
    return "\n".join(_commented(config, indent=0)) + "\n"


def _commented(section: BaseModel, indent: int) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        key = " " * indent + (field.alias or name) + ":"
        if isinstance(value, BaseModel):
            lines += ["", f"{key}  # {field.description}"] if indent == 0 else [f"{key}  # {field.description}"]
            lines += _commented(value, indent + 2)
        else:
            plain = json.dumps(section.model_dump(mode="json")[field.alias or name], ensure_ascii=False)
            if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value) and parse_yaml(value, key) == value:
                plain = value  # quotes only where YAML would take it for something else
            lines.append(f"{key + ' ' + plain:<32}  # {field.description}")
    return lines
