"""The models, processors and pipelines that travel to the Hub with a checkpoint."""
