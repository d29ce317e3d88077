"""The demo: scenes, the model that is trained on them, and `vlq demo`."""
