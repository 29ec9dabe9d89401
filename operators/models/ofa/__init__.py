"""OFA in plain PyTorch, with the tensor names of the checkpoints that ModelScope publishes."""
