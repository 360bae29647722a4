"""A check of an export where nothing of this package can be imported, as on the machine that will serve it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import ExportError, one_line

#: Runs a script as if it were alone: what is None in `sys.modules` cannot be imported, however it was installed.
#: Isolated mode leaves out PYTHONPATH and a user's own packages, where TensorFlow may be: its folder is appended.
_ALONE = (
    "import runpy, sys; sys.modules['pipeline'] = None; sys.path.append(sys.argv.pop(1)); sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def verify_in_clean_process(folder: Path) -> dict[str, Any]:
    """Returns the report of an export's own `golden/verify.py`, run in a process of its own.

    On the processor: the GPU's memory is held by this process.

    Raises:
        ExportError: The export does not answer as the trained network did, or could not be asked.
    """
    tensorflow = importlib.util.find_spec("tensorflow")
    home = str(Path(tensorflow.origin).parents[1]) if tensorflow and tensorflow.origin else ""
    script = folder / "golden" / "verify.py"
    done = subprocess.run(
        [sys.executable, "-I", "-c", _ALONE, home, str(script), str(folder), "--json"],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.strip().splitlines()[-1:] or [one_line(error)]
        raise ExportError(
            f"the export could not be asked in a clean process (exit code {done.returncode}: {last[0][:200]}); "
            "nothing was published"
        ) from error
    require_equal(report)
    return report


def require_equal(report: dict[str, Any]) -> None:
    """Looks whether a report finds nothing wrong.

    Raises:
        ExportError: It does; the message has the first problem and counts the others.
    """
    if report["ok"]:
        return
    first, others = report["problems"][0], len(report["problems"]) - 1 + report["more_problems"]
    raise ExportError(
        f"the export does not answer as the trained network did: {first['file']}: {first['problem']}"
        f"{f' (and {others} more)' if others else ''}; nothing was published"
    )
