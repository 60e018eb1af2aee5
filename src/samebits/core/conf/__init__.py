"""Options of the harness that Hydra finds beside the project's conf/: seed policies and runtime levels."""
