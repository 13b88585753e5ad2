"""Pure Flax encoders; `clip.build` makes a model from a preset's name."""
