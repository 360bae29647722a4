from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import TfdsConfig
from pipeline.errors import DataError
from pipeline.ingest.sources import tfds as source_module
from pipeline.ingest.sources import tfds_download
from pipeline.ingest.sources.base import Item
from pipeline.ingest.sources.tfds import TfdsSource
from pipeline.ingest.sources.tfds_download import run_watched
from pipeline.ingest.store import ContentStore
from pipeline.progress import Silent

LABELS = ["cat", "dog tag", "T-shirt/top"]

Prepare = Callable[..., Path]


def encoded(seed: int, format: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def picture(number: int) -> bytes:
    """Returns an image file: every second one a PNG, the others JPEG."""
    return encoded(number, "PNG" if number % 2 else "JPEG")


def example(number: int) -> dict[str, Any]:
    return {"image": io.BytesIO(picture(number)), "label": number % 3, "boxes": list(range(number))}


def usual_features() -> dict[str, Any]:
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=LABELS),
        "boxes": tfds.features.Sequence(np.int64),  # of another length in every example
    }


def builder_class(
    splits: Mapping[str, int], version: str, features: Callable[[], dict[str, Any]], make: Callable[[int], Any],
    supervised: tuple[str, str] | None, configs: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in configs]  # noqa: RUF012

        def _info(self) -> Any:
            kinds = tfds.features.FeaturesDict(features())
            return tfds.core.DatasetInfo(builder=self, features=kinds, supervised_keys=supervised)

        def _split_generators(self, downloads: Any) -> dict[str, Any]:
            return {name: self._generate_examples(name, count) for name, count in splits.items()}

        def _generate_examples(self, name: str, count: int) -> Iterator[tuple[int, Any]]:
            first = 100 * list(splits).index(name)
            for number in range(first, first + count):
                yield number, make(number)

    return Tiny


@contextmanager
def tfds_at_work() -> Iterator[None]:
    """TFDS warns while it prepares, which is no concern of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    """Returns `prepare(data_dir, splits, ...)`: a data set `tiny` that TFDS itself has written, and its folder."""

    def make(
        data_dir: Path,
        splits: Mapping[str, int],
        version: str = "1.0.0",
        features: Callable[[], dict[str, Any]] = usual_features,
        example: Callable[[int], Any] = example,
        supervised: tuple[str, str] | None = ("image", "label"),
        config: str | None = None,
        configs: tuple[str, ...] = (),
    ) -> Path:
        with tfds_at_work():
            kind = builder_class(splits, version, features, example, supervised, configs)
            builder = kind(data_dir=data_dir, config=config)
            builder.download_and_prepare()
            return Path(builder.data_dir)

    return make


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, prepare: Prepare) -> Path:
    """Returns a folder with `tiny` prepared: ten images in train, six in test."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, {"train": 10, "test": 6})
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("the test asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Recorded(Silent):
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.bars: dict[str, list[int]] = {}
        self.lines: list[str] = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Recorded]:
        self.bars[title] = [0, total]
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        list(self.bars.values())[-1][0] += steps

    def say(self, line: str) -> None:
        self.lines.append(line)


def open_tiny(data_dir: Path, store: Path, name: str = "tiny", **splits: str) -> TfdsSource:
    return TfdsSource(name, TfdsConfig(data_dir=str(data_dir), **splits), ContentStore(store))


def counts(items: list[Item]) -> dict[str | None, int]:
    return dict(Counter(item.split for item in items))


def refusal(source: TfdsSource) -> str:
    with pytest.raises(DataError) as caught:
        source.items(Silent())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read.


def test_images_are_kept_as_they_were_encoded(data_dir: Path, tmp_path: Path) -> None:
    items = open_tiny(data_dir, tmp_path).items(Silent())
    expected = {picture(n): (LABELS[n % 3], "train" if n < 100 else "test") for n in (*range(10), *range(100, 106))}
    assert {Path(item.path).read_bytes(): (item.label, item.split) for item in items} == expected
    assert Counter(Path(item.path).suffix for item in items) == {".png": 8, ".jpg": 8}
    assert all(Path(item.path).is_relative_to(tmp_path) for item in items)
    assert [item.id for item in items] == sorted({item.id for item in items})
    assert items[0].id == "test/tiny-test.tfrecord-00000-of-00001__0"


def test_a_folder_is_the_same_data_set(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = open_tiny(data_dir, tmp_path)
    by_folder = TfdsSource(str(data_dir / "tiny/1.0.0"), TfdsConfig(), ContentStore(tmp_path))
    monkeypatch.chdir(data_dir)
    by_relative = TfdsSource("tiny/1.0.0", TfdsConfig(), ContentStore(tmp_path))
    above = TfdsSource(str(data_dir / "tiny"), TfdsConfig(), ContentStore(tmp_path))
    assert by_name.items(Silent()) == by_folder.items(Silent()) == by_relative.items(Silent()) == above.items(Silent())
    assert (by_name.name, by_name.origin) == ("tiny", "tfds:tiny")
    assert (by_folder.name, by_folder.origin) == ("tiny", f"tfds:{data_dir / 'tiny/1.0.0'}")
    assert by_relative.origin == by_folder.origin


def test_the_environment_may_name_the_folder(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(TfdsSource("tiny", TfdsConfig(), ContentStore(tmp_path)).items(Silent())) == 16
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(data_dir)
    assert len(TfdsSource("tiny", TfdsConfig(), ContentStore(tmp_path)).items(Silent())) == 16


def test_progress_counts_the_examples(data_dir: Path, tmp_path: Path) -> None:
    progress = Recorded()
    open_tiny(data_dir, tmp_path).items(progress)
    assert progress.bars == {"read tiny": [16, 16]}


def test_reading_is_silent(data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_tiny(data_dir, tmp_path).items(Silent())
    assert capfd.readouterr() == ("", "")


def test_versions_and_configurations_are_found(prepare: Prepare, tmp_path: Path) -> None:
    for version, count in (("1.2.0", 3), ("1.10.0", 4), ("2.0.0", 5)):
        prepare(tmp_path, {"train": count}, version)
    (tmp_path / "tiny/3.0.0").mkdir()  # not prepared

    def read(name: str) -> int:
        return len(open_tiny(tmp_path, tmp_path / "store", name).items(Silent()))

    asked = ("tiny", "tiny:1.*.*", "tiny:1.2.0", "tiny:*.10.*")
    assert {name: read(name) for name in asked} == dict(zip(asked, (5, 4, 3, 4), strict=True))
    configs = ("small", "large")
    for config, count in (("large", 7), ("small", 6)):
        prepare(tmp_path / "more", {"train": count}, config=config, configs=configs)

    def read_config(name: str) -> int:
        return len(open_tiny(tmp_path / "more", tmp_path / "store", name).items(Silent()))

    assert [read_config(f"tiny{rest}") for rest in ("", "/large", "/small:1.0.0", ":1.*.*")] == [6, 7, 6, 6]
    (tmp_path / "more/tiny/.config/metadata.json").unlink()
    assert refusal(open_tiny(tmp_path / "more", tmp_path / "store")) == (
        "tfds:tiny lies prepared in several configurations; name one: tfds:tiny/large, tfds:tiny/small"
    )


# Its splits and ours.


@pytest.mark.parametrize(
    ("theirs", "named", "ours"),
    [
        ({"train": 3, "validation": 2, "test": 1}, {}, {"train": 3, "validation": 2, "test": 1}),
        ({"train": 3, "val": 2}, {}, {"train": 3, "validation": 2}),
        ({"train": 3}, {}, {None: 3}),
        ({"full": 3}, {}, {None: 3}),
        ({"train": 3, "extra": 2}, {}, {None: 3}),
        ({"train": 3, "test": 1, "extra": 2}, {}, {"train": 3, "test": 1}),
        ({"train": 3, "test": 1}, {"train": "test"}, {"train": 1}),
        ({"train": 10}, {"train": "train[:80%]", "test": "train[80%:]"}, {"train": 8, "test": 2}),
        ({"a": 4, "b": 2}, {"train": "a + b[:1]", "validation": "b[1:]"}, {"train": 5, "validation": 1}),
        ({"a": 4, "b": 2}, {"train": "all"}, {"train": 6}),
    ],
)
def test_splits_are_ours_by_name_or_by_config(
    theirs: dict[str, int], named: dict[str, str], ours: dict[str | None, int], prepare: Prepare, tmp_path: Path
) -> None:
    prepare(tmp_path, theirs)
    progress = Recorded()
    items = open_tiny(tmp_path, tmp_path / "store", **named).items(progress)
    assert counts(items) == ours
    assert any("extra" in line for line in progress.lines) == ("extra" in theirs)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"big": 2, "small": 1}, "tfds:tiny has no split called train; it has big, small; set ingest.tfds.train"),
        ({"train": 2, "val": 1, "valid": 1}, "tfds:tiny has two splits for validation; it has train, val, valid; set"),
    ],
)
def test_splits_without_a_train_have_to_be_named(
    theirs: dict[str, int], message: str, prepare: Prepare, tmp_path: Path
) -> None:
    prepare(tmp_path, theirs)
    assert refusal(open_tiny(tmp_path, tmp_path / "store")).startswith(message)
    with pytest.raises(DataError, match="set ingest"):
        open_tiny(tmp_path, tmp_path / "store").peek()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"train": "trian"}, "ingest.tfds.train: tfds:tiny has no split 'trian': did you mean 'train'?; it has"),
        ({"train": "train", "test": "zzz[:1]"}, "ingest.tfds.test: tfds:tiny has no split 'zzz': allowed: test, train"),
        ({"train": "train[:80%"}, "ingest.tfds.train='train[:80%' is no split; write"),
        ({"train": ""}, "ingest.tfds.train='' is no split"),
        ({"test": "test"}, "ingest.tfds.test is set but not ingest.tfds.train, so nothing would be trained on"),
        ({"train": "train[x:]"}, "tiny has no split 'train[x:]' ("),
        ({"train": "train[5:5]"}, "tiny: train[5:5] holds no examples; take a larger slice"),
        ({"train": "train", "test": "train[90%:]"}, "tiny: train and train[90%:] share examples; take slices that do"),
        ({"train": "train+train"}, "tiny: train+train and train+train share examples"),
        ({"train": "train", "test": "all"}, "share examples"),
    ],
)
def test_splits_that_cannot_be_are_refused(named: dict[str, str], message: str, data_dir: Path, tmp_path: Path) -> None:
    assert message in refusal(open_tiny(data_dir, tmp_path, **named))


def test_an_id_does_not_depend_on_what_else_is_read(data_dir: Path, tmp_path: Path) -> None:
    whole = {item.id: Path(item.path).name for item in open_tiny(data_dir, tmp_path).items(Silent())}
    for named in ({"train": "train[3:7]", "test": "train[7:]+test[2:]"}, {"train": "test[50%:]"}):
        part = open_tiny(data_dir, tmp_path, **named).items(Silent())
        assert {item.id: Path(item.path).name for item in part}.items() <= whole.items()
        assert len({item.id for item in part}) == len(part) > 2


# What is no data set of labelled images.


def features_of(**kinds: str) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        import tensorflow_datasets as tfds

        known = {
            "image": tfds.features.Image(),
            "float": tfds.features.Image(shape=(9, 7, 1), dtype=np.float32),
            "mask": tfds.features.LabeledImage(labels=3, shape=(9, 7, 1)),
            "array": tfds.features.Tensor(shape=(2,), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=LABELS),
            "number": tfds.features.Scalar(np.int64),
        }
        return {key: known[kind] for key, kind in kinds.items()}

    return make


VALUES: dict[str, Any] = {
    "float": np.ones((9, 7, 1), np.float32), "mask": np.ones((9, 7, 1), np.uint8), "array": [1, 2], "label": 1,
    "number": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "supervised", "found"),
    [
        ({"image": "image", "label": "label"}, None, None),
        ({"photo": "image", "kind": "label", "mask": "mask", "n": "number"}, None, None),
        ({"a": "image", "b": "image", "x": "label", "y": "label"}, ("b", "y"), None),
        ({"a": "image", "b": "image", "label": "label"}, None, "a: Image, b: Image, label: ClassLabel"),
        ({"image": "array", "label": "label"}, ("image", "label"), "image: Tensor, label: ClassLabel"),
        ({"image": "image", "label": "number"}, ("image", "label"), "image: Image, label: Scalar"),
        ({"mask": "mask", "label": "label"}, None, "label: ClassLabel, mask: LabeledImage"),
        ({"image": "float", "label": "label"}, None, "images of float32"),
    ],
)
def test_the_image_and_its_label_are_told_apart(
    kinds: dict[str, str], supervised: tuple[str, str] | None, found: str | None, prepare: Prepare, tmp_path: Path
) -> None:
    def make(number: int) -> dict[str, Any]:
        # The image that is meant is the last one, so the first must not be taken.
        places = {key: place for place, key in enumerate(sorted(kinds))}
        return {
            key: io.BytesIO(picture(10 * places[key] + number)) if kind == "image" else VALUES[kind]
            for key, kind in kinds.items()
        }

    prepare(tmp_path, {"train": 2}, features=features_of(**kinds), example=make, supervised=supervised)
    source = open_tiny(tmp_path, tmp_path / "store")
    if found is not None:
        assert found in refusal(source)
        return
    key = supervised[0] if supervised else next(key for key, kind in kinds.items() if kind == "image")
    place = sorted(kinds).index(key)
    expected = {picture(10 * place), picture(10 * place + 1)}
    assert {Path(item.path).read_bytes() for item in source.items(Silent())} == expected


def test_examples_without_a_label_are_refused(prepare: Prepare, tmp_path: Path) -> None:
    prepare(tmp_path, {"train": 2, "test": 2}, example=lambda n: {**example(n), "label": 1 if n < 100 else -1})
    source = open_tiny(tmp_path, tmp_path / "store")
    assert "has no label (-1); leave out its split test: ingest.tfds.train" in refusal(source)
    assert counts(open_tiny(tmp_path, tmp_path / "store", train="train").items(Silent())) == {"train": 2}


@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_damaged_files_are_refused(damage: str, data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir / "tiny/1.0.0", tmp_path / "tiny/1.0.0")
    shard = next(folder.glob("*train.tfrecord*"))
    if damage == "gone":
        shard.unlink()
    else:
        data = shard.read_bytes()
        shard.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:100] + b"x" + data[101:])
    message = refusal(open_tiny(tmp_path, tmp_path / "store"))
    assert message.startswith(f"{folder} cannot be read by TFDS (")
    assert message.endswith("take the folder away and prepare it anew")


def test_a_damaged_description_is_refused(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir / "tiny/1.0.0", tmp_path / "tiny/1.0.0")
    (folder / "dataset_info.json").write_text("{}")
    assert "dataset_info.json is damaged; take" in refusal(open_tiny(tmp_path, tmp_path / "store"))


@pytest.mark.parametrize("name", ["", "7up", "a b", "-x", "mnist:3", "kaggle:mnist", "no/such/folder/1.0.0", "mnist/"])
def test_a_name_that_cannot_be_is_refused_at_once(name: str, tmp_path: Path) -> None:
    message = refusal(open_tiny(tmp_path, tmp_path / "store", name))
    assert message.startswith(f"tfds:{name} is neither a name that TFDS could have nor a folder; write tfds:tf_flowers")
    with pytest.raises(DataError, match="neither a name"):
        open_tiny(tmp_path, tmp_path / "store", name).peek()


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    message = refusal(open_tiny(tmp_path, tmp_path / "store", str(tmp_path)))
    assert message.startswith(f"{tmp_path} holds no data set prepared by TFDS (dataset_info.json); write")


# The second time.


def test_the_second_time_nothing_is_read(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_tiny(data_dir, tmp_path)
    assert source.peek() is None
    items = source.items(Silent())
    monkeypatch.delattr(source_module, "read_examples")
    assert source.items(Silent()) == items == source.peek()


def test_the_second_time_loads_no_tensorflow(data_dir: Path, tmp_path: Path) -> None:
    open_tiny(data_dir, tmp_path).items(Silent())
    script = (
        "import json, sys; from pathlib import Path; from pipeline.config import TfdsConfig\n"
        "from pipeline.ingest.sources.tfds import TfdsSource; from pipeline.ingest.store import ContentStore\n"
        "from pipeline.progress import Silent\n"
        "source = TfdsSource('tiny', TfdsConfig(data_dir=sys.argv[1]), ContentStore(Path(sys.argv[2])))\n"
        "items = source.items(Silent())\n"
        "print(json.dumps([len(items), 'tensorflow' in sys.modules or 'tensorflow_datasets' in sys.modules]))"
    )
    printed = subprocess.check_output([sys.executable, "-c", script, str(data_dir), str(tmp_path)])
    assert json.loads(printed) == [16, False]


@pytest.mark.parametrize("change", ["image gone", "image cut", "index damaged", "data set touched", "other splits"])
def test_a_change_is_noticed(change: str, data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "tiny", tmp_path / "tiny")
    store = tmp_path / "store"
    items = open_tiny(tmp_path, store).items(Silent())
    if change == "image gone":
        Path(items[0].path).unlink()
    elif change == "image cut":
        Path(items[0].path).write_bytes(b"")
    elif change == "index damaged":
        next((store / "tfds").iterdir()).write_bytes(b"PAR1")
    elif change == "data set touched":
        os.utime(next((tmp_path / "tiny/1.0.0").glob("*train.tfrecord*")), ns=(0, 0))
    named = {"train": "train"} if change == "other splits" else {}
    source = open_tiny(tmp_path, store, **named)
    assert source.peek() is None
    again = source.items(Silent())
    assert again == [item for item in items if not named or item.split == "train"]
    assert all(Path(item.path).read_bytes() for item in again)


# Fetching.


def test_an_unknown_name_is_refused_with_the_likeliest(tmp_path: Path) -> None:
    message = refusal(open_tiny(tmp_path, tmp_path / "store", "tf_flower"))
    assert message.startswith("unknown TFDS data set 'tf_flower': did you mean 'tf_flowers'?")
    message = refusal(open_tiny(tmp_path, tmp_path / "store", "qqqqqqq/zz:1.0.0"))
    assert message.startswith("unknown TFDS data set 'qqqqqqq': TFDS lists ")
    assert len(message) < 200


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_download, "run_watched", lambda *_: pytest.fail("asked although nothing answers"))
    progress = Recorded()
    with pytest.raises(DataError) as caught:
        open_tiny(tmp_path, tmp_path / "store", "tf_flowers:3.*.*").items(progress)
    assert str(caught.value).startswith(
        f"tfds:tf_flowers:3.*.* is not prepared in {tmp_path} and cannot be fetched from "
    )
    assert "the test asked the network" in str(caught.value)
    assert progress.lines == [f"tfds:tf_flowers:3.*.* is not prepared in {tmp_path}: fetching it"]


def test_a_data_set_is_fetched_where_there_is_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Prepare
) -> None:
    """The child process is TFDS' own affair; what it is asked, and that its result is read, is ours."""
    asked: list[list[str]] = []

    def fetch(command: list[str], tell: Callable[[str], None], stall: float) -> None:
        asked.append(command)
        prepare(tmp_path, {"train": 4})
        (tmp_path / "tiny").rename(tmp_path / "tf_flowers")

    monkeypatch.setattr(tfds_download, "unreachable", lambda url, seconds: None)
    monkeypatch.setattr(tfds_download, "run_watched", fetch)
    assert len(open_tiny(tmp_path, tmp_path / "store", "tf_flowers").items(Silent())) == 4
    assert [command[-2:] for command in asked] == [["tf_flowers", str(tmp_path)]]


def test_the_child_reports_why_it_failed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", tfds_download.CHILD, "no_such_data_set", str(tmp_path)]
    reason = run_watched(command, lambda line: None, 120)
    assert reason is not None
    assert reason.startswith("Dataset no_such_data_set not found")


def test_the_child_prepares_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    kind = builder_class({"train": 2}, "1.0.0", usual_features, example, ("image", "label"))
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir, try_gcs: kind(data_dir=data_dir))
    with tfds_at_work():
        tfds_download.prepare("tiny", str(tmp_path))
    assert len(open_tiny(tmp_path, tmp_path / "store").items(Silent())) == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('10%', end='\\r'); print('\\x1b[Adone')", None),
        ("import sys; sys.exit('no room left')", "no room left"),
        ("print('a\\nFAILED: it broke', flush=True); raise SystemExit(1)", "it broke"),
        ("raise SystemExit(3)", "it ended with 3"),
    ],
)
def test_a_child_is_listened_to(script: str, reason: str | None) -> None:
    said: list[str] = []
    assert run_watched([sys.executable, "-c", script], said.append, 60) == reason
    if reason is None:
        assert said[-1] == "done"


@pytest.mark.parametrize(
    "script",
    [
        "import signal; signal.pause()",
        "import os, signal; os.close(1); os.close(2); signal.pause()",
        "import signal, subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])",
    ],
)
def test_a_child_that_is_stuck_is_killed_with_its_children(script: str) -> None:
    before = set(threading.enumerate())
    assert run_watched([sys.executable, "-c", script], lambda line: None, 0.5) == "it got no further for 0 s"
    assert set(threading.enumerate()) == before  # the reader has seen the end: nobody holds the output any more


def test_a_child_that_works_shows_it_and_ends_with_its_parent() -> None:
    script = (
        "from pipeline.ingest.sources import tfds_download\n"
        "tfds_download.BEAT_SECONDS = 0.05\n"
        "import threading; threading.Thread(target=tfds_download._beat, daemon=True).start()\n"
        "while True: pass"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"\0\0"
        child.stdout.close()
        assert child.wait(60) == 1


def test_the_answer_comes_in_time() -> None:
    """The probe and the import of TFDS before it have to fit into the 15 seconds that are promised."""
    assert tfds_download.PROBE_SECONDS <= 8
