"""Tasks: what is learnt. `base` is the protocol; the table of concrete tasks is `pipeline.tasks.table`."""
