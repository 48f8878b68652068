"""From photographs to a checkpoint."""

import evaluation  # noqa: F401  before lightning: it makes torchvision importable
