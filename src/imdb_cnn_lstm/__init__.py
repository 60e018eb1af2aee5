"""The data and the model of the example."""
