"""The list of runs, from their folders."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pipeline.config import parse_yaml
from pipeline.files import read_json
from pipeline.workdir import STAGES, RunDir, list_runs


def run_rows(runs: Path) -> list[dict[str, Any]]:
    """Returns a row for each run, the newest first: name, status, stages, data, backbone, metrics, MLflow run id."""
    return [_row(run) for run in list_runs(runs)]


def _row(run: RunDir) -> dict[str, Any]:
    state = run.load_state()
    stages = {stage: entry["state"] for stage, entry in state["stages"].items()}
    config = parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config)) if run.config.exists() else {}
    evaluation = read_json(run.evaluation) if stages.get("evaluate") == "done" else {"metrics": {}}
    return {
        "name": run.name,
        "created": datetime.datetime.fromtimestamp(state["created"]).isoformat(timespec="seconds"),
        "status": _status(stages),
        "stages": stages,
        "experiment": state["experiment"],
        "data": config.get("ingest", {}).get("data"),
        "backbone": config.get("model", {}).get("backbone"),
        "score": _score(evaluation),
        "metrics": evaluation["metrics"],
        "mlflow_run_id": state["mlflow_run_id"],
        "path": str(run.path),
    }


def _score(evaluation: dict[str, Any]) -> str:
    name, metrics = evaluation.get("headline_metric"), evaluation["metrics"]
    if name is None:
        return ""
    low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
    return f"{name.removeprefix('test/')} {metrics[name]:.3f} ({low:.3f} to {high:.3f})"


def _status(stages: dict[str, str]) -> str:
    """Returns "failed", "killed" or "running" where a stage is, "done" where all are, else how many are."""
    for state in ("failed", "killed", "running"):
        if state in stages.values():
            return state
    done = sum(state == "done" for state in stages.values())
    return "done" if done == len(STAGES) else f"{done} of {len(STAGES)} stages"


def print_runs(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "created", "status", "data", "backbone", "score (95 % interval)"):
        table.add_column(column)
    for row in rows:
        cells = (row["name"], row["created"].replace("T", " "), row["status"], row["data"], row["backbone"])
        table.add_row(*(Text(str(cell)) for cell in cells), row["score"])  # Text: a "[" in a name is no markup
    Console(width=None if Console().is_terminal else 160).print(table)
