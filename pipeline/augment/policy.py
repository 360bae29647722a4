"""The policy that applies a recipe of augmentations: pixels and a seed in, pixels out."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.augment.table import AUGMENTATIONS, REVISION, Augmentation, Image, Shape, load_albumentations
from pipeline.errors import ConfigError, nearest


@dataclass(frozen=True)
class Policy:
    """Augmentations in the order in which they are applied; false when there are none."""

    transforms: tuple[Augmentation, ...] = ()

    def __bool__(self) -> bool:
        """Returns whether there is anything to apply."""
        return bool(self.transforms)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names in order."""
        return tuple(transform.name for transform in self.transforms)

    @property
    def captions(self) -> tuple[str, ...]:
        """Returns what each does in a few words, empty for one that needs none."""
        return tuple(transform.caption.format(**transform.model_dump()) for transform in self.transforms)

    @property
    def digest(self) -> str:
        """Returns the sha256 (hex) of all that the pixels depend on beside image and seed."""
        import cv2

        versions = {"albumentations": metadata.version("albumentations"), "opencv": cv2.__version__}
        text = json.dumps([REVISION, versions, self.describe()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> list[dict[str, Any]]:
        """Returns the recipe with every default filled in; `load_policy` makes an equal policy of it."""
        return [{transform.name: transform.model_dump(mode="json")} for transform in self.transforms]

    def ignored_for(self, task: str) -> list[str]:
        """Returns the names that are not valid for a task, and that `for_task` leaves out."""
        return [transform.name for transform in self.transforms if task not in transform.tasks]

    def for_task(self, task: str) -> Policy:
        """Returns the policy without what is not valid for a task."""
        return Policy(tuple(transform for transform in self.transforms if task in transform.tasks))

    def only(self, index: int) -> Policy:
        """Returns the policy of one of the transforms, which it always applies."""
        return Policy((self.transforms[index].model_copy(update={"probability": 1.0}),))

    def apply(self, image: Image, seed: int) -> Image:
        """Returns the augmented image, (H, W, C) uint8 in [0, 255], a function of image and seed alone.

        Args:
            image: (H, W, C) uint8 in [0, 255], C 1 or 3; left unchanged.
            seed: any int64. Neither thread, process nor what was augmented before makes a difference.

        Raises:
            ValueError: the image has another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise ValueError(f"image must be (H, W, 1 or 3) uint8, not {image.shape} {image.dtype}")
        if not self:
            return image.copy()
        compose = _compose(self, image.shape)
        # Not `compose.set_random_seed`: it gives every transform its own generator with the same seed, so that all of
        # them draw the same numbers, and two flips at probability 0.5 both happen or both do not.
        unsigned = int(seed) % 2**64
        compose.set_random_state(np.random.default_rng(unsigned), random.Random(unsigned))
        return np.array(compose(image=image)["image"], order="C")  # a transform may return its input, or a view of it

    def apply_batch(self, images: Image, seeds: npt.NDArray[np.int64]) -> Image:
        """Returns the augmented images, (B, H, W, C) uint8, each as `apply` makes it with its own seed."""
        augmented = np.empty_like(images)
        for index, (image, seed) in enumerate(zip(images, seeds, strict=True)):
            augmented[index] = self.apply(image, seed)
        return augmented


def load_policy(transforms: Sequence[str | Mapping[str, Mapping[str, Any] | None]]) -> Policy:
    """Returns the policy that a recipe's `augment.transforms` asks for.

    >>> load_policy(["blur", {"rotate": {"degrees": 10}}]).names
    ('blur', 'rotate')

    Args:
        transforms: each a name, or a mapping from one name to its parameters; what is left out takes its default.

    Raises:
        ConfigError: an unknown name or parameter, or a value out of range. Names the key.
    """
    if isinstance(transforms, str | Mapping):
        raise ConfigError(f"augment.transforms: found {transforms!r}, allowed: a list of augmentations")
    return Policy(tuple(_load_transform(f"augment.transforms[{i}]", item) for i, item in enumerate(transforms)))


def _load_transform(key: str, item: str | Mapping[str, Mapping[str, Any] | None]) -> Augmentation:
    """Returns one item of a recipe as a row with its parameters; `key` is where it stands."""
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ConfigError(f"{key}: found {item!r}, allowed: one name, or one name and its parameters")
    ((name, given),) = item.items()
    if name not in AUGMENTATIONS:
        raise ConfigError(f"{key}: unknown augmentation {name!r}; {nearest(str(name), AUGMENTATIONS)}")
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"{key}.{name}: found {given!r}, allowed: a mapping of parameters")
    row = AUGMENTATIONS[name]
    try:
        return row.model_validate(given or {})
    except ValidationError as invalid:
        raise ConfigError(f"{key}.{name}.{_first_problem(invalid, row)}") from invalid


def _first_problem(invalid: ValidationError, row: type[Augmentation]) -> str:
    """Returns the first thing wrong with some parameters: which one, what was found, what is allowed."""
    problem = invalid.errors()[0]
    parameter = str(problem["loc"][0])
    if parameter not in row.model_fields:
        return f"{parameter}: unknown parameter; {nearest(parameter, row.model_fields)}"
    rule = problem["ctx"].get("error") or problem["ctx"]["expected"]  # of a number, or of a choice
    return f"{parameter}: found {problem['input']!r}, allowed: {rule}"


class _Thread(threading.local):
    """The last transform that this thread built, and for what: transforms hold generators, so threads share none."""

    built_for: tuple[Policy, Shape] | None = None
    compose: Any = None


_thread = _Thread()


def _compose(policy: Policy, shape: Shape) -> Any:
    """Returns this thread's transform for a policy and an image shape."""
    if _thread.built_for != (policy, shape):
        transforms = [transform.build(shape) for transform in policy.transforms]
        _thread.compose = load_albumentations().Compose(transforms)
        _thread.built_for = (policy, shape)
    return _thread.compose
