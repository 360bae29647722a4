"""The sentences of a model card: how the data were split, how the model was trained, what is weak about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.export.markdown import Raw, escape, number

if TYPE_CHECKING:
    from pipeline.export.card import Card

#: Test images of a class below which its scores say little.
FEW_IMAGES = 20

#: Half the width of the headline's interval above which the test set is called small.
WIDE = 0.05


def split_words(card: Card) -> Raw:
    """Returns how the images were dealt out, as a paragraph."""
    of, leaks = card.config.ingest, card.ingest["leaks"]
    kinds = " (re-encoded, resized, cropped or mirrored ones too)" if of.duplicates == "near" else ""
    group = " Images with an equal part of the name share a split." if of.split.group else ""
    leaked = f" **{leaks:,} pairs of copies stand in different splits, where the source's own splits have them.**"
    shares = f"{100 * of.split.validation:.0f} % were asked for as validation and {100 * of.split.test:.0f} % as test"
    return Raw(
        f"Copies of an image{kinds} share a split.{group} Of each class {shares} (split seed {of.split.seed}), unless "
        f"the source has splits of its own.{leaked if leaks else ''}"
    )


def training_words(card: Card) -> Raw:
    """Returns the recipe, as a paragraph."""
    train, augment = card.config.train, card.config.augment
    phases = {"head": "the head alone", "fine_tune": f"the layers above {escape(str(train.fine_tune.from_))} too"}
    taken = ", then ".join(f"{count} epochs of {phases.get(name, name)}" for name, count in card.epochs.items())
    rates = [str(train.head.learning_rate)] * bool(train.head.epochs)
    rates += [str(train.fine_tune.learning_rate)] * bool(train.fine_tune.epochs)
    seen = augment.transforms if augment.views or train.features == "live" else ()  # a bank without views has none
    names = [escape(one if isinstance(one, str) else next(iter(one))) for one in seen]
    searched = f" Chosen on validation: {', '.join(train.searched)}." if train.searched else ""
    return Raw(
        f"{_origin(card)} {taken[:1].upper()}{taken[1:]}, in batches of {train.batch_size}; AdamW, peak learning rate "
        f"{' and '.join(rates)}, cosine decay; label smoothing {train.label_smoothing}, mixup {train.mixup}, cutmix "
        f"{train.cutmix}, class weights {train.class_weights}; seed {card.config.seed}.{searched} The epoch with the "
        f"lowest validation loss was kept. Augmentation: {', '.join(names) or 'none'}."
    )


def _origin(card: Card) -> str:
    weights = card.weights
    digest = f", SHA-256 `{weights.digest}`" if weights.digest else ""
    if weights.spec == "none":
        return "From random weights."
    if weights.origin:
        return f"From weights trained on ImageNet ({escape(weights.origin)}{digest})."
    return f"From the weights in a file, {escape(weights.spec)}{digest}."


def class_rows(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns a row a class of the table `per_class`, the lowest recall first; none where it is not there."""
    table = (found or {}).get("per_class")
    if not table or not {"label", "recall", "precision", "f1", "support"} <= set(table):
        return []
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"], row["label"]))


def limits(found: Mapping[str, Any] | None) -> list[Raw]:
    """Returns what evaluation found to be weak, a sentence each, as Markdown."""
    if found is None:
        return []
    return [*_small_test_set(found), *_weak_classes(found), *_weak_kinds(found), *_doubtful_labels(found)]


def _small_test_set(found: Mapping[str, Any]) -> list[Raw]:
    metrics, name = found["metrics"], found["headline_metric"]
    low, high, images = metrics.get(f"{name}_low"), metrics.get(f"{name}_high"), metrics.get("test/images")
    sentences = []
    if low is not None and (high - low) / 2 > WIDE:
        sentences.append(
            f"**The test set is small**: with {number(images)} images the score is known to about "
            f"{50 * (high - low):.0f} points either way."
        )
    few = [row for row in class_rows(found) if row["support"] < FEW_IMAGES]
    if few:
        least = min(row["support"] for row in few)
        sentences.append(
            f"{len(few)} of the classes have fewer than {FEW_IMAGES} test images, one as few as {least}: their rows "
            "in the table of classes say little."
        )
    return [Raw(sentence) for sentence in sentences]


def _weak_classes(found: Mapping[str, Any]) -> list[Raw]:
    sentences = []
    weak = [row for row in class_rows(found) if row["recall"] is not None and row["recall"] < 1][:3]
    if weak:
        said = ", ".join(f"{escape(row['label'])} ({row['recall']:.3f})" for row in weak)
        sentences.append(f"Classes that are found least (recall): {said}.")
    pairs = found.get("confused_pairs")
    if pairs and pairs.get("label"):
        columns = (pairs["label"], pairs["predicted"], pairs["images"])
        first = list(zip(*columns, strict=True))[:3]
        said = ", ".join(f"{escape(true)} for {escape(answer)} ({count})" for true, answer, count in first)
        sentences.append(f"Most often taken for another (true class for answer, images): {said}.")
    return [Raw(sentence) for sentence in sentences]


def _weak_kinds(found: Mapping[str, Any]) -> list[Raw]:
    """Returns which kinds of images are answered otherwise, and what changes of images cost."""
    sentences = []
    slices = found.get("slices") or {}
    names = ("slice", "images", "score", "differs")
    for kind, images, score, differs in zip(*(slices.get(name, ()) for name in names), strict=True):
        if differs:
            sentences.append(
                f"Kind of image that differs from the rest: {escape(kind)}: {score:.3f} on {images:,} images."
            )
    robust = {name: value for name, value in found["metrics"].items() if name.startswith("test/robust_")}
    if robust:
        clean = found["robustness"]["clean"]
        said = ", ".join(f"{escape(name.removeprefix('test/robust_'))} {value:.3f}" for name, value in robust.items())
        sentences.append(f"Mean score under five strengths of a change, {clean:.3f} without one: {said}.")
    else:
        sentences.append("Robustness against blur, noise, rotation, darkness and JPEG was not measured.")
    return [Raw(sentence) for sentence in sentences]


def _doubtful_labels(found: Mapping[str, Any]) -> list[Raw]:
    noise = found.get("label_noise")
    if not noise:
        return [Raw("Whether labels of the data are wrong was not looked at.")]
    in_test = (noise.get("suspect_by_split") or {}).get("test", 0)
    return [
        Raw(
            f"{noise['suspect']:,} of {noise['images']:,} labels of the data look wrong, {in_test:,} of them in the "
            "test split; wrong labels there lower the scores."
        )
    ]
