from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.ingest.manifest import SCHEMA, SPLITS, Manifest, build_manifest, load_manifest, save_manifest


def row(number: int, **changes: Any) -> dict[str, Any]:
    label, split = "ab"[number % 2], SPLITS[number % 3]
    usual = {
        "id": f"{label}/{number}.png", "path": f"/photos/{label}/{number}.png", "label": label, "split": split,
        "original": f"/photos/{label}/{number}.png", "pixels": f"pixels{number}", "group": None,
        "sha256": f"sha{number}", "cluster": f"sha{number}", "width": 4, "height": 3, "format": "PNG", "mode": "RGB",
        "bytes": 100 + number, "orientation": 1, "transcoded": None,
    }  # fmt: skip
    return usual | changes


ROWS = [row(number) for number in range(6)]
MANIFEST = build_manifest(ROWS)


def test_rows_stand_in_the_order_of_their_ids() -> None:
    wanted = [row | {"source_label": row["label"]} for row in sorted(ROWS, key=lambda row: row["id"])]
    assert build_manifest(ROWS[::-1]).table.to_pylist() == wanted


def test_counts_and_splits_add_up() -> None:
    assert MANIFEST.classes == ("a", "b")
    assert MANIFEST.counts() == {split: {"a": 1, "b": 1} for split in SPLITS}
    for split in SPLITS:
        assert len(MANIFEST.split(split)) == 2
        assert set(MANIFEST.split(split).column("split")) == {split}
    only_train = MANIFEST.split("train")
    assert only_train.counts()["test"] == {"a": 0, "b": 0}
    assert len(only_train.split("test")) == 0


@pytest.mark.parametrize("changes", [{"id": "z/z.png"}, {"path": "/elsewhere/0.png"}, {"bytes": 1}, {"cluster": "x"}])
def test_digest_does_not_see(changes: dict[str, Any]) -> None:
    assert build_manifest([row(0, **changes), *ROWS[1:]]).digest == MANIFEST.digest


@pytest.mark.parametrize("changes", [{"label": "b"}, {"split": "test"}, {"sha256": "other"}])
def test_digest_sees(changes: dict[str, Any]) -> None:
    assert build_manifest([row(0, **changes), *ROWS[1:]]).digest != MANIFEST.digest


def test_digest_sees_an_image_come_go_and_come_twice() -> None:
    manifests = [ROWS, ROWS[1:], [*ROWS, row(6)], [*ROWS, row(0, id="copy.png")]]
    assert len({build_manifest(rows).digest for rows in manifests}) == len(manifests)


def test_digest_sees_labels_exchanged() -> None:
    exchanged = [row(0, label="b"), row(1, label="a"), *ROWS[2:]]
    assert build_manifest(exchanged).digest != MANIFEST.digest


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    strange = build_manifest([row(0, label="Käfer, groß", path="/photos/a b/ä.png"), *ROWS[1:]])
    save_manifest(strange, tmp_path / "new" / "manifest.parquet")
    loaded = load_manifest(tmp_path / "new" / "manifest.parquet")
    assert loaded.table.equals(strange.table)
    assert loaded.digest == strange.digest


def with_column(name: str, values: list[Any]) -> pa.Table:
    return MANIFEST.table.set_column(SCHEMA.names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-40]), id="cut"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes().replace(b"sha", b"\0\0\0")), id="altered"),
        pytest.param(lambda path: pq.write_table(MANIFEST.table.drop(["split"]), path), id="column missing"),
        pytest.param(lambda path: pq.write_table(with_column("width", ["wide"] * 6), path), id="text for a number"),
        pytest.param(lambda path: pq.write_table(with_column("label", [["a"]] * 6), path), id="lists for text"),
    ],
)
def test_a_damaged_manifest_says_what_to_do(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    save_manifest(MANIFEST, path)
    damage(path)
    with pytest.raises(DataError) as caught:
        load_manifest(path)
    assert str(caught.value) == f"{path} is no manifest of this version; run the stage ingest again"


def test_columns_in_another_order_are_put_right(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    pq.write_table(MANIFEST.table.select(SCHEMA.names[::-1]).append_column("extra", pa.array(range(6))), path)
    assert load_manifest(path) == Manifest(MANIFEST.table)
