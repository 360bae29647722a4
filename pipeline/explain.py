"""What a run's network sees in an image, as a picture and in numbers. TensorFlow is loaded when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError
from pipeline.ingest.manifest import load_manifest
from pipeline.tasks.table import load_task
from pipeline.trained import Query, load_calibration, load_recipe, load_trained, printable, unloadable
from pipeline.workdir import RunDir

if TYPE_CHECKING:
    from pipeline.models.explanation import Explanation


@dataclass(frozen=True)
class Explained:
    """An image, explained.

    Attributes:
        query: The image.
        run: The run's name.
        explanation: What its network sees in the image.
    """

    query: Query
    run: str
    explanation: Explanation

    def document(self, picture: Path | None) -> dict[str, Any]:
        """Returns what `explain --json` prints; `picture` is the file that was drawn, if one was."""
        return {
            "image": self.query.name,
            "run": self.run,
            "classes": [{"label": score.label, "probability": score.probability} for score in self.explanation.classes],
            "receptive_fields": [
                {
                    "layer": depth.layer,
                    "shape": list(depth.shape),
                    "size": list(depth.field.size),
                    "stride": list(depth.field.stride),
                    "whole_image": depth.field.whole_image,
                }
                for depth in self.explanation.depths
            ],
            "picture": None if picture is None else printable(picture),
        }

    def lines(self) -> list[str]:
        """Returns the likeliest classes for people, a line each: probability, label."""
        from pipeline.figures import one_line

        return [f"{score.probability:6.3f}  {one_line(score.label, 60)}" for score in self.explanation.classes]

    def save_picture(self, output: Path) -> None:
        """Writes the picture."""
        from pipeline.figures import save_figure
        from pipeline.pictures.explain import explain_figure

        height, width = self.query.pixels.shape[:2]
        note = f"{self.explanation.backbone}; the file has {height:,} x {width:,} pixels"
        title = f"what run {self.run} sees in {self.query.path.name}"
        save_figure(explain_figure(self.explanation, title, note), output)


def explain_image(run: RunDir, query: Query) -> Explained:
    """Returns what the trained network of a run sees in an image.

    Raises:
        PipelineError: Something of the run cannot be read; one line.
    """
    from pipeline.evaluate.explain import Explainer
    from pipeline.train.dataset import InputSpec

    config, classes = load_recipe(run), load_manifest(run.manifest).classes
    full = load_trained(run)
    try:
        explainer = Explainer(full, load_task(config.task), classes, load_calibration(run))
    except ModelError as error:
        raise unloadable(run, error) from error
    height, width, channels = full.input_shape[1:]
    return Explained(
        query, run.name, explainer.explain(query.decode(InputSpec((height, width), channels, config.model.resize)))
    )
