"""The Open Inference Protocol: generated code of inference.proto and model_config.proto."""
