"""Training: photographs to checkpoints."""

import evaluation  # noqa: F401  before lightning: it makes torchvision importable
