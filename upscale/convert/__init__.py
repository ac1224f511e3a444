"""Published checkpoints of SR3, IDM and ECDP become weights; weights become ONNX files."""
