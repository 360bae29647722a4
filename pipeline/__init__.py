"""transfer-pipeline: retrain a vision model on a folder of labelled images."""

from __future__ import annotations

import os

# These are read once, when the library loads, so they stand before any heavy import. `setdefault` leaves a user's own
# choice alone. oneDNN is off by default on some processors and changes the last bits of a result: fixing it here makes
# one machine's runs comparable with each other.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# albumentations and MLflow ask the network at import or first use; nothing here may connect unannounced.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
