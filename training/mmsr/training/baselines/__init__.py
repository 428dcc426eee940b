"""What the model is compared with, on the same data, split and metrics."""
