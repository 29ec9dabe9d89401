"""mPLUG (arXiv:2205.12005): a captioner, and a matcher of images and sentences."""
