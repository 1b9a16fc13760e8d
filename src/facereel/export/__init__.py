"""Export of a trained model: safetensors, ONNX, and a model card."""
