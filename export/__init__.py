"""From a PyTorch model to verified variants in a Triton model repository.

Only the functions that run a step import torch, onnx or onnxruntime; everything else stays light.
"""
