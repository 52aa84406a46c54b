"""The commands of `hf-refseg`, one file each; what is slow to import is imported where a command uses it."""
