"""Models: one ONNX file each, their registry, and who is champion."""
