"""Loading, masks and examples of referring segmentation data."""
