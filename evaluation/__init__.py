"""Evaluation of checkpoints on photographs with known colours."""

# Before lightning's torchmetrics imports torchvision, which fails with a torch without CUDA.
from evaluation.perceptual import torchvision_models

torchvision_models()
