from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.ingest.sources.base import SPLIT_NAMES, Item
from pipeline.ingest.sources.table import TableSource
from pipeline.progress import Silent

Rows = list[dict[str, str]]
Write = Callable[[Path, Rows], Path]


def write_csv(folder: Path, rows: Rows) -> Path:
    path = folder / "images.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(folder: Path, rows: Rows) -> Path:
    path = folder / "images.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(params=[write_csv, write_parquet])
def write(request: pytest.FixtureRequest) -> Write:
    """Returns what writes rows as CSV, then as Parquet."""
    function: Write = request.param
    return function


def text_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "images.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def items(path: Path) -> list[Item]:
    return TableSource(path).items(Silent())


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        TableSource(path).peek()
    with pytest.raises(DataError) as again:
        items(path)
    assert str(again.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(path)) == 1
    return str(caught.value).replace(str(path), "TABLE")


def test_rows_become_items(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, [
        {"path": "dog/b.png", "label": "dog", "split": "test", "group": "g1", "note": "x"},
        {"path": "/far/a.jpg", "label": "cat", "split": "", "group": "", "note": "y"},
    ])  # fmt: skip
    assert items(path) == [
        Item("/far/a.jpg", "/far/a.jpg", "cat", None, None),
        Item("dog/b.png", str(tmp_path / "dog/b.png"), "dog", "test", "g1"),
    ]
    assert TableSource(path).peek() == items(path)


def test_two_columns_are_enough(write: Write, tmp_path: Path) -> None:
    assert items(write(tmp_path, [{"label": "cat", "path": "a.jpg"}])) == [
        Item("a.jpg", str(tmp_path / "a.jpg"), "cat")
    ]


def test_items_come_by_id(write: Write, tmp_path: Path) -> None:
    names = ["b", "a/é", "a/z", "a/e\u0301", "B", "10", "9", "🐈"]
    found = [item.id for item in items(write(tmp_path, [{"path": name, "label": "x"} for name in names]))]
    assert found == sorted(names)


def test_a_table_is_known_by_its_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [{"path": "a.jpg", "label": "cat"}])
    monkeypatch.chdir(tmp_path)
    source = TableSource(Path(path.name))
    assert (source.name, source.origin) == (path.name, str(path))
    assert source.items()[0].path == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("label", ["007", "NA", "null", "true", "1e3", "-1.50", "N/A", "#N/A", "nan"])
def test_everything_is_text(label: str, write: Write, tmp_path: Path) -> None:
    rows = [{"path": f"{label}.jpg", "label": label, "group": label}]
    assert items(write(tmp_path, rows)) == [
        Item(f"{label}.jpg", str(tmp_path / f"{label}.jpg"), label, None, label),
    ]


ODD = [
    "a b.jpg", " leading.jpg", "trailing ", "two\nlines.jpg", "carriage\r\nreturn", 'a"quoted".jpg', "it's", "a,b;c\td",
    "100%.jpg", "#1.jpg", "-rf.jpg", "🐈.jpg",
    unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"),
    "~/a.jpg", "../up.jpg", "./dot.jpg", "a//b.jpg", "$HOME.jpg", "*.jpg", "back\\slash.jpg", "x" * 255,
]  # fmt: skip


def test_odd_paths_come_through_unchanged(write: Write, tmp_path: Path) -> None:
    found = items(write(tmp_path, [{"path": name, "label": "x"} for name in ODD]))
    assert [item.id for item in found] == sorted(ODD)
    assert [item.path for item in found] == [f"{tmp_path}/{name}" for name in sorted(ODD)]


ODD_LABELS = ["a b", 'a "b"', "a,b;c", "100%", "#1", "-x", "🐈", "é", "e\u0301t", "=1+1", "T-shirt/top", "a\u00a0b"]


def test_odd_labels_come_through_unchanged(write: Write, tmp_path: Path) -> None:
    rows = [{"path": f"{number:02}", "label": label} for number, label in enumerate(ODD_LABELS)]
    assert [item.label for item in items(write(tmp_path, rows))] == ODD_LABELS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["two\nlines"], "TABLE: label 'two\\nlines' has a line break or another control character in its name"),
        (["é", "e\u0301"], "TABLE: labels 'e\u0301' and 'é' look alike but are coded differently"),
    ],
)
def test_labels_that_no_file_could_name_are_refused(
    labels: list[str], message: str, write: Write, tmp_path: Path
) -> None:
    rows = [{"path": f"{number}.jpg", "label": label} for number, label in enumerate(labels)]
    assert message in refusal(write(tmp_path, rows))


def test_blanks_around_all_but_paths_are_dropped(write: Write, tmp_path: Path) -> None:
    rows = [{"path": " a.jpg ", "label": "\tcat ", "split": " Test ", "group": "  "}]
    assert items(write(tmp_path, rows)) == [Item(" a.jpg ", f"{tmp_path}/ a.jpg ", "cat", "test", None)]


def test_blanks_after_commas_are_no_part_of_a_columns_name(tmp_path: Path) -> None:
    assert items(text_file(tmp_path, "path, label\na.jpg, cat\n")) == [Item("a.jpg", f"{tmp_path}/a.jpg", "cat")]


@pytest.mark.parametrize(("written", "split"), [*SPLIT_NAMES.items(), ("TRAIN", "train"), ("Val", "validation")])
def test_splits_have_several_names(written: str, split: str, write: Write, tmp_path: Path) -> None:
    assert items(write(tmp_path, [{"path": "a", "label": "x", "split": written}]))[0].split == split


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfpath,label\r\na.jpg,cat\r\n",
        b"path,label\ra.jpg,cat\r",
        b"path,label\na.jpg,cat",
        b"\n\npath,label\n\na.jpg,cat\n\n",
        b'"path","label"\n"a.jpg","cat"\n',
        b"x,path,x,label,\n1,a.jpg,\xc3\xa9,cat,\n",
    ],
)
def test_csv_as_programs_write_it(text: bytes, tmp_path: Path) -> None:
    assert items(text_file(tmp_path, text)) == [Item("a.jpg", f"{tmp_path}/a.jpg", "cat")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "TABLE is empty; a table of images has the columns path,label[,split,group], named in its first line"),
        ("path,label\n", "TABLE lists no images"),
        ("path;label\na;b\n", "TABLE is separated by semicolons; save it with commas"),
        ("path\tlabel\na\tb\n", "TABLE is separated by tabs; save it with commas"),
        ("file,label\na,b\n", "TABLE has no column 'path' but 'file', 'label'"),
        ("path,Label\na,b\n", "TABLE has no column 'label' but 'path', 'Label'"),
        ("a.jpg,cat\nb.jpg,dog\n", "TABLE has no column 'path' but 'a.jpg', 'cat'"),
        ("path,label,path\na,b,c\n", "TABLE has two columns 'path'; keep one"),
        ('path,label\n"a\nb",x\n\nc,d,e\n', "TABLE, line 5: 3 values for 2 columns; put quotes around a value"),
        ("path,label\na,b\nc\n", "TABLE, line 3: 1 values for 2 columns; fill it up"),
        ('path,label\na,b\n"c,d\ne,f\n', "TABLE, line 3: 1 values for 2 columns; is a quote not closed?"),
        ("path,label\na,b\nc,\n", "TABLE, line 3: no label; give it one or take the line out"),
        ("path,label\na,b\nc,  \n", "TABLE, line 3: no label;"),
        ('path,label\n"a\nb",b\n\n,c\n', "TABLE, line 5: no path;"),
        ("path,label\na,b\na\0b,c\n", "TABLE, line 3: a NUL character in the path; take it out"),
        (b"path,label\na,b\nc,\xff\n", "TABLE, line 3: not UTF-8 text; save the table as CSV in UTF-8"),
        ("path,label\na,é\n".encode("utf-16"), "TABLE, line 1: not UTF-8 text"),
        ("path,label,split\na,b,train\nc,d,tset\n", "TABLE, line 3: unknown split 'tset': did you mean 'test'?"),
        ("path,label\na,b\nc,d\na,b\n", "TABLE lists 'a' twice (line 2 and line 4); keep the right line"),
        ("path,label\na,b\nc,d\na,e\n", "TABLE lists 'a' with two labels, 'b' and 'e' (line 2 and line 4);"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be_used_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    assert refusal(text_file(tmp_path, text)).startswith(message)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"]}, "TABLE has no column 'label' but 'path'"),
        ({"path": ["a"], "label": [1.5]}, "TABLE: column 'label' holds double; write it as text"),
        ({"path": [["a"]], "label": ["b"]}, "TABLE: column 'path' holds list"),
        ({"path": ["a", "b"], "label": ["x", None]}, "TABLE, row 2: no label"),
        ({"path": ["a", "b", "a"], "label": ["x", "x", "y"]}, "TABLE lists 'a' with two labels, 'x' and 'y' (row 1"),
        ({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}, "TABLE lists no images"),
    ],
)  # fmt: skip
def test_a_parquet_that_cannot_be_used_is_refused(columns: dict[str, object], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "images.parquet")
    assert refusal(tmp_path / "images.parquet").startswith(message)


def test_parquet_as_programs_write_it(tmp_path: Path) -> None:
    table = pa.table({
        "path": pa.array(["b", "a"], pa.large_string()),
        "label": pa.array([7, -1], pa.int8()),
        "split": pa.array([None, "val"]).dictionary_encode(),
        "group": pa.nulls(2),
        "embedding": [[1.0], [2.0]],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "images.PARQUET")
    assert items(tmp_path / "images.PARQUET") == [
        Item("a", f"{tmp_path}/a", "-1", "validation"),
        Item("b", f"{tmp_path}/b", "7"),
    ]


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_bytes(b"path,label\na,b\n")
    assert refusal(tmp_path / "images.parquet").startswith("TABLE cannot be read as Parquet (")


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
def test_a_folder_or_nothing_is_no_table(name: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / name).startswith("no file TABLE;")
    (tmp_path / name).mkdir()
    assert refusal(tmp_path / name).startswith("TABLE is a folder;")


def test_a_table_of_many_lines_comes_whole(tmp_path: Path) -> None:
    # Over the megabyte that a CSV reader takes at a time, with a line break inside quotes throughout.
    lines = "".join(f'"some/longer folder/{number:06}\n.png",{number % 7},\n' for number in range(40_000))
    found = items(text_file(tmp_path, f"path,label,split\n{lines}"))
    assert len(found) == 40_000
    assert found[39_999].id == "some/longer folder/039999\n.png"
    assert found[39_999].label == str(39_999 % 7)
