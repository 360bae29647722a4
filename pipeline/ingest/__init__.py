"""Ingest: a source of labelled images becomes a manifest in which every image can be read and has its split."""

from __future__ import annotations

from pipeline.ingest.result import IngestResult, Previous
from pipeline.ingest.stage import check_source, ingest

__all__ = ["IngestResult", "Previous", "check_source", "ingest"]
