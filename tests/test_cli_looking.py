"""`pipeline doctor` and `pipeline inspect`, as a newcomer would call them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.ingest.manifest import Manifest
from pipeline.pictures import views


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def call(*words: object) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_doctor_speaks_to_people(photo_folder: Path, project: Path) -> None:
    (photo_folder / "red" / "empty.jpg").touch()
    result = call("doctor", photo_folder)
    assert result.exit_code == 0
    assert f"{photo_folder}: 24 usable images in 3 classes" in result.stdout
    assert f"  {photo_folder / 'red' / 'empty.jpg'}: the file is empty" in result.stdout
    assert list(project.iterdir()) == []


def test_doctor_speaks_to_programs(photo_folder: Path) -> None:
    (photo_folder / "red" / "empty.jpg").touch()
    shutil.copy(photo_folder / "red" / "1.png", photo_folder / "red" / "copy.png")
    document = json.loads(call("doctor", photo_folder, "--json").stdout)
    assert document["problems"] == [{"path": str(photo_folder / "red" / "empty.jpg"), "reason": "the file is empty"}]
    (pair,) = document["duplicates"]
    assert (pair["first_id"], pair["second_id"], pair["kind"], pair["leak"]) == (
        "red/1.png", "red/copy.png", "exact", False
    )  # fmt: skip


def test_doctor_remembers_within_a_project_only(photo_folder: Path, project: Path) -> None:
    (project / ".cache").mkdir()
    call("doctor", photo_folder)
    assert list((project / ".cache" / "ingest").glob("*.parquet"))


@pytest.mark.parametrize("command", ["doctor", "inspect"])
def test_a_folder_that_is_not_there_is_one_line(command: str) -> None:
    result = call(command, "gone")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: no f")
    assert len(result.stderr.splitlines()) == 1


def test_inspect_an_image(photo_folder: Path, project: Path) -> None:
    result = call("inspect", photo_folder / "red" / "1.png")
    assert result.exit_code == 0
    assert result.stdout == "picture: inspect-1.png\n"
    assert min(size_of(project / "inspect-1.png")) > 500


def test_inspect_says_what_ingest_will_do_with_an_image(photo_folder: Path) -> None:
    Image.open(photo_folder / "red" / "1.png").save("scan.tiff")
    result = call("inspect", "scan.tiff", "-o", "out.png")
    assert result.stdout == "ingest will store it anew as PNG: TIFF of mode RGB\npicture: out.png\n"


def test_inspect_two_images(photo_folder: Path, project: Path) -> None:
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), np.ones((12, 12, 1)))
    Image.fromarray(picture.astype(np.uint8)).save("one.png")
    Image.fromarray(picture.astype(np.uint8)).rotate(90).save("two.png")
    result = call("inspect", "one.png", "two.png")
    assert "very likely the same scene" in result.stdout
    assert size_of(project / "inspect-one-two.png")


def test_inspect_a_folder(photo_folder: Path, project: Path) -> None:
    (photo_folder / "red" / "empty.jpg").touch()
    result = call("inspect", photo_folder, "-o", "data.png")
    assert result.exit_code == 0
    assert "24 images in 3 classes: 18 train, 3 validation, 3 test" in result.stdout
    assert "cannot be used: 1 (pipeline doctor says why)" in result.stdout
    assert size_of(project / "data.png")
    assert [path.name for path in project.iterdir()] == ["data.png"]


def test_inspect_a_folder_too_small_to_be_split(tmp_path: Path, make_photos: object) -> None:
    assert callable(make_photos)
    folder = make_photos(tmp_path / "few", classes=["only"], count=2)
    assert "one class only" in call("run", "--data", folder, "--dry-run").stderr
    result = call("inspect", folder, "-o", "data.png")
    assert result.exit_code == 0
    assert size_of(Path("data.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.jpg"], "photo.jpg: is an HTML page, not an image; take it out"),
        (["image.png", "photo.jpg"], "photo.jpg: is an HTML page, not an image; take it out"),
        (["image.png", "gone.png"], "no file or folder gone.png"),
        (["image.png", "-o", "out.jpg"], "-o out.jpg: pictures are written as PNG; end the name in .png"),
        (["image.png", "-o", "gone/out.png"], "-o gone/out.png: there is no folder gone"),
    ],
)
def test_inspect_refuses_in_one_line(words: list[str], message: str, photo_folder: Path) -> None:
    shutil.copy(photo_folder / "red" / "1.png", "image.png")
    Path("photo.jpg").write_text("<html>404</html>")
    result = call("inspect", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert not list(Path.cwd().glob("inspect-*"))


def test_inspect_draws_what_is_stored_anew_outside_a_project(
    tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is a folder of the moment then, and the picture is drawn from it."""
    folder = make_photos(tmp_path / "scans", size=(40, 50))
    for path in sorted(folder.glob("*/*")):
        Image.open(path).save(path.with_suffix(".tiff"))
        path.unlink()
    drawn: list[int] = []
    figure = views.dataset_figure

    def spy(manifest: Manifest, *rest: object) -> object:
        drawn.extend(Path(path).stat().st_size for path in manifest.column("path"))
        return figure(manifest, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(views, "dataset_figure", spy)
    assert call("inspect", folder, "-o", "data.png").exit_code == 0
    assert len(drawn) == 24
    assert all(drawn)
