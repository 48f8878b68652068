"""What a checkpoint is worth, on photographs with known colours."""

# Before lightning: its torchmetrics imports torchvision, which needs help where torch was built
# without CUDA.
from evaluation.perceptual import torchvision_models

torchvision_models()
