"""The command `serve`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli_group import PATH
from pipeline.errors import shown


@click.command()
@click.argument("export_dir", type=PATH)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on.")
def serve(export_dir: Path, port: int) -> None:
    """Try an exported model on a page in the browser, on this machine only.

    Drop images on the page, paste them or choose them: it shows the label, the probabilities, and where the model is
    not confident. Programs send an image to the same address and get JSON. Ctrl-C ends it.

    \b
    pipeline serve runs/default-1/export
    curl --data-binary @photo.jpg http://127.0.0.1:8080/predict
    """
    from pipeline.serve.server import PageServer, load_contract
    from pipeline.terminal import Interrupts, quiet_tensorflow

    contract = load_contract(export_dir)
    with Interrupts() as interrupts, PageServer(contract, port) as server, quiet_tensorflow():
        from pipeline.export.predict import Predictor

        predictor = Predictor(export_dir)
        predictor.answer([])  # the first call builds what all others use: nobody waits for it yet
        click.echo(f"{shown(contract['run'])}: {server.address}  (Ctrl-C ends it)")
        server.run(predictor.predict_contents, interrupts.check)
