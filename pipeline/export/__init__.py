"""Export: a SavedModel that takes encoded images and answers with labels, and the client that uses nothing else."""
