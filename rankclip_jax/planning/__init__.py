"""The planner: compiles the training step for devices that need not be attached, and predicts memory and speed."""
