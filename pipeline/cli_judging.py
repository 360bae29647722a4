"""The commands that judge what was trained. Nothing heavy is loaded before one runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.cli_group import PATH, picture_name
from pipeline.errors import CheckError, ExportError, TrackingError, shown


@click.command()
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B")
@click.option("--intersection", is_flag=True, help="Compare on the test images that both have, if the sets differ.")
@click.option("-o", "--output", type=PATH, metavar="FILE.png", help="Where to write the picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; a picture is drawn with -o only.")
def compare(run_a: str, run_b: str, intersection: bool, output: Path | None, as_json: bool) -> None:
    """Say whether one run is better than another, on the same test images, and how sure that is.

    A run is given by its name, its folder or its MLflow run id. The comparison is added to RUN_B in MLflow. Exit code
    3 when the two were tested on different images.

    \b
    pipeline compare default-1 default-2
    pipeline compare default-1 default-2 --json | jq -r .verdict
    pipeline compare default-1 photos-1 --intersection -o both.png
    """
    from pipeline.compare import compare_runs, record_comparison
    from pipeline.evaluate.compare_table import print_comparison
    from pipeline.pictures.views import check_picture_name
    from pipeline.terminal import Interrupts

    if output:
        check_picture_name(output)
    with Interrupts():
        found = compare_runs(Path.cwd() / "runs", run_a, run_b, intersection=intersection)
        if not (output or as_json):
            output = picture_name("compare", found.a.run.name, found.b.run.name)
        if output:
            found.save_picture(output)
        document = found.document(output)
        try:
            record_comparison(found, output)
        except TrackingError as error:
            click.secho(f"warning: {error}", fg="yellow", err=True)
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    print_comparison(document)
    click.echo(f"picture: {shown(str(output))}")


@click.command()
@click.argument("export_dir", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(export_dir: Path, as_json: bool) -> None:
    """Ask an exported model its golden images again, and check that no file has changed.

    Exit code 3 when an answer differs from the one that was recorded by more than 0.0001 in any probability, or a file
    is damaged. Each other format whose runtime is installed is asked too, with its own tolerance. Where this program
    is not installed, golden/verify.py inside the export does the same for the SavedModel, and checks all files.

    \b
    pipeline verify runs/default-1/export
    python runs/default-1/export/golden/verify.py
    """
    from pipeline.export.foreign import require_harmless
    from pipeline.export.verify import NotAnExport, check_sums, lines, require_export
    from pipeline.export.verify import verify as check
    from pipeline.terminal import Interrupts, quiet_tensorflow

    try:
        require_export(export_dir)  # before TensorFlow is loaded
    except NotAnExport as error:
        raise ExportError(str(error)) from error
    with Interrupts(), quiet_tensorflow():
        from pipeline.export.formats.check import check_formats, format_lines, with_formats

        if not check_sums(export_dir)[0]:  # what is damaged is not loaded anyway
            try:
                require_harmless(export_dir)
            except ExportError as error:
                raise CheckError(str(error)) from error
        report = check(export_dir)
        # What is damaged is not loaded, here neither.
        report = with_formats(report, check_formats(export_dir) if report["ok"] else [])
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        for line in (*lines(report), *format_lines(report["formats"])):
            click.echo(shown(line))
    if not report["ok"]:
        count = len(report["problems"]) + report["more_problems"]
        raise CheckError(f"{export_dir} is not what was exported: {count} problem{'s' if count > 1 else ''}")


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--alias", required=True, metavar="NAME", help="The alias to move, such as champion.")
@click.option("--register", metavar="MODEL", help="Register RUN's export under this name first, where it is not yet.")
@click.option("--intersection", is_flag=True, help="Compare on the test images that both have, if the sets differ.")
@click.option("--even-if-worse", is_flag=True, help="Promote what is worse, too, or what cannot be compared.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def promote(
    run: str, alias: str, register: str | None, intersection: bool, even_if_worse: bool, as_json: bool
) -> None:  # fmt: skip
    """Give an alias in MLflow's model registry to RUN's version, unless it is worse than the one that has it.

    The export is verified again, then the two runs are compared as `pipeline compare` does. Exit code 3, and nothing
    has moved, when RUN is worse, the two were tested on different images, or the export is damaged. A difference that
    cannot be told from chance is no reason to refuse.

    \b
    pipeline promote photos-2 --alias champion
    pipeline promote photos-2 --alias champion --register flowers
    pipeline promote photos-2 --alias champion --json | jq -r .verdict
    """
    from pipeline.promote import Options, promote_run
    from pipeline.terminal import Interrupts, quiet_tensorflow

    options = Options(alias, register, intersection, even_if_worse)
    with Interrupts(), quiet_tensorflow():
        done = promote_run(Path.cwd() / "runs", run, options)
    if as_json:
        click.echo(json.dumps(done.document(), ensure_ascii=False, indent=2))
    if done.refusal:
        raise CheckError(done.refusal)
    if not as_json:
        click.echo("\n".join(map(shown, done.lines())))


JUDGING = (compare, verify, promote)
