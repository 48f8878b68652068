"""What a checkpoint is worth, on photographs with known colours."""

# Before lightning: its torchmetrics imports torchvision, which needs the help in unet.py where
# torch was built without CUDA.
from colorizer.unet import torchvision_models

torchvision_models()
