"""The training images nearest to an image, in the eyes of a run's network. TensorFlow is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import shown
from pipeline.ingest.manifest import load_manifest
from pipeline.progress import Progress
from pipeline.trained import Query, load_recipe, load_trained_network, printable
from pipeline.workdir import RunDir

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: The file that the source named.
        stored: The file that was trained on; another one where ingest had to store the image anew.
        id, label: As in the manifest.
        similarity: Cosine between its feature and the query's, in [-1, 1].
        same_image: Whether it has the very bytes of the query.
    """

    path: str
    stored: str
    id: str
    label: str
    similarity: float
    same_image: bool


@dataclass(frozen=True)
class Similar:
    """The neighbours of a query, the nearest first.

    Attributes:
        query: What was looked for.
        run: The run's name.
        neighbours: At least one.
        note: What was compared, in one line.
    """

    query: Query
    run: str
    neighbours: Sequence[Neighbour]
    note: str

    def document(self, picture: Path | None) -> dict[str, Any]:
        """Returns what `similar --json` prints; `picture` is the file that was drawn, if one was."""
        fields = ("path", "id", "label", "similarity", "same_image")
        return {
            "image": self.query.name,
            "run": self.run,
            "neighbours": [{field: getattr(one, field) for field in fields} for one in self.neighbours],
            "picture": None if picture is None else printable(picture),
        }

    def lines(self) -> list[str]:
        """Returns a table for people, a line a neighbour: similarity, label, path."""
        from rich.cells import cell_len

        from pipeline.figures import one_line

        labels = [one_line(one.label, 40) for one in self.neighbours]
        width = max(map(cell_len, labels))
        return [
            f"{one.similarity:6.3f}  {label}{' ' * (width - cell_len(label))}  {shown(one.path)}"
            f"{'  (the image itself)' if one.same_image else ''}"
            for one, label in zip(self.neighbours, labels, strict=True)
        ]

    def save_picture(self, output: Path) -> None:
        """Writes the query and its neighbours as a picture."""
        from pipeline.figures import save_figure
        from pipeline.pictures.neighbours import Tile, neighbours_figure

        tiles = [
            Tile(one.stored, Path(one.path).name, one.label, one.similarity, one.same_image) for one in self.neighbours
        ]
        title = f"nearest training images of run {self.run}"
        save_figure(neighbours_figure(self.query.pixels, self.query.path.name, tiles, title, self.note), output)


def find_similar(run: RunDir, query: Query, top: int, progress: Progress) -> Similar:
    """Returns the `top` images of a run's train split that are nearest to a query.

    Compared are the pooled features of the run's trained network, by cosine. Those of the training images come from
    the feature bank; what it lacks is computed, and kept.

    Raises:
        PipelineError: Something of the run cannot be read, or an image changed since ingest; one line.
    """
    from pipeline.evaluate.neighbours import nearest_neighbours
    from pipeline.models.network import FEATURES
    from pipeline.train.bank.frozen import FrozenFeatures
    from pipeline.train.bank.store import GIB, FeatureStore
    from pipeline.train.dataset import InputSpec, naming_bad_images
    from pipeline.train.extraction import padded_forward

    config, manifest = load_recipe(run), load_manifest(run.manifest)
    network = load_trained_network(run, config, manifest)
    cut = network.cut(FEATURES)
    spec = InputSpec(network.image_size, network.channels, network.resize)
    train = manifest.split("train")
    feature = padded_forward(cut.trunk, network.row.extraction_batch)(query.decode(spec))
    store = FeatureStore(run.project / ".cache" / "features", int(config.train.bank.budget_gb * GIB))
    with naming_bad_images(train.column("path")):
        rows = FrozenFeatures(network, cut, store, progress).features(train, f"features of {run.name}")
        found = nearest_neighbours(feature, rows.plain(), top)
    columns = {name: train.column(name) for name in ("original", "path", "id", "label", "sha256")}
    neighbours = [
        Neighbour(
            columns["original"][place], columns["path"][place], columns["id"][place], columns["label"][place],
            float(similarity), columns["sha256"][place] == query.sha256,
        )
        for place, similarity in zip(found.places[0], found.similarities[0], strict=True)
    ]  # fmt: skip
    note = f"by the cosine between features of the trained {network.row.name}; {len(train):,} training images"
    return Similar(query, run.name, neighbours, note)
