"""Builders that turn the original files of a data set into a Hugging Face data set."""
