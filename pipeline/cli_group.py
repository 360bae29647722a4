"""What all commands share: errors become one line, a misspelt command is offered its nearest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError

PATH = click.Path(path_type=Path)


class Group(click.Group):
    """A group whose commands turn a `PipelineError` into one line on stderr and its exit code, 1 for most."""

    def invoke(self, ctx: click.Context) -> Any:
        """Returns what the command returns; an error of the user's or the system's ends the process with its code."""
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `| head` has seen enough; Click ends quietly
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            reason = error.strerror or error
            click.secho(f"error: {place}{reason}; check permissions and space", fg="red", err=True)
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command of a name; a misspelt one is a usage error that offers the nearest."""
        from pipeline.errors import nearest

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no {'stage' if self.chain else 'command'} {name!r}: {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def picture_name(command: str, *names: str) -> Path:
    """Returns the file, in the current folder, of a picture of things with these names; no longer than one can be."""
    cut = [os.fsencode(name)[:100].decode("utf-8", "ignore") for name in names]
    return Path("-".join([command, *cut]) + ".png")
