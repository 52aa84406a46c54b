"""Stands for the helper of transformers' repository that finds files of the Hub; no test here reads one."""


def url_to_local_path(url: str) -> str:
    """The address as it is."""
    return url
