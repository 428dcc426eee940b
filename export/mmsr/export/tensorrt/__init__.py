"""ONNX graphs of a bundle -> TensorRT engines. Imports no torch, and TensorRT only where used."""
