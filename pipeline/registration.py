"""What a version of a registered model is known by: the run, the data, the score, and the answers behind the score."""

from __future__ import annotations

from pipeline.files import file_digest, read_json
from pipeline.workdir import RunDir


def version_tags(run: RunDir) -> dict[str, str]:
    """Returns the tags of a version that is made of a run's export; of the score only where evaluate is done."""
    tags = {"run": run.name, "dataset": str(read_json(run.file("ingest.json"))["digest"])[:12]}
    digest = answers_digest(run)
    if digest is None:
        return tags
    evaluation = read_json(run.evaluation)
    name, metrics = evaluation["headline_metric"], evaluation["metrics"]
    numbers = (metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"])
    return tags | {"score": "{} {:.3f} (95 % interval {:.3f} to {:.3f})".format(name, *numbers), "answers": digest}


def answers_digest(run: RunDir) -> str | None:
    """Returns the SHA-256 of a run's answers to its test images; None where evaluate is not done.

    By it a version knows later whether the run still holds the answers of the network that was registered.
    """
    done = run.stage_state("evaluate") == "done" and run.predictions.is_file()
    return file_digest(run.predictions) if done else None
