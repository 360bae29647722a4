"""Formats of an export beside the SavedModel: a row of `table.FORMATS` each, converted, asked and measured alike."""
