"""A trained model for others: safetensors, ONNX, and a card that says what it is."""
