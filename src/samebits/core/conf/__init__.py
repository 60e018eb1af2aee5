"""Options of the harness that Hydra finds beside the project's conf/, and the configuration of a script."""
