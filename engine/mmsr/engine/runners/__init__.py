"""What computes a graph of the bundle: ONNX Runtime, later TensorRT."""
