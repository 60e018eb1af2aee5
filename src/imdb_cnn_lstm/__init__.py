"""The data and the model: a worked example, until you put your own here."""
