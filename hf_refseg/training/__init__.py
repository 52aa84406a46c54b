"""Training referring segmentation models with the Trainer."""
