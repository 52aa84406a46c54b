"""What `make docs` adds to mkdocs: pages of files beside docs/, equations as MathML, the package as installed."""

import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parents[1]
# Pages of the site that GitHub wants at the top of a repository.
TOP_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
# Where the site has the other files that pages link to.
SOURCE = "source"
# The API is read from here: in a checkout `modeling/` and `datasets_scripts/` lie beside the package.
DOCUMENTED = CHECKOUT / "build" / "documented" / "hf_refseg"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
EQUATION = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_startup(*, command: str, dirty: bool) -> None:
    """Lays the package out as it is installed."""
    shutil.rmtree(DOCUMENTED, ignore_errors=True)
    DOCUMENTED.mkdir(parents=True)
    inside = (path for path in (CHECKOUT / "hf_refseg").iterdir() if path.name != "__pycache__")
    for path in (*inside, CHECKOUT / "modeling", CHECKOUT / "datasets_scripts"):
        (DOCUMENTED / path.name).symlink_to(path)


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Adds the pages at the top of the repository, and a page for each other file that is linked to."""
    for name in TOP_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(CHECKOUT / name)))
    linked: set[str] = set()
    for file in files.documentation_pages():
        map_links(file.content_string, file.src_uri, lambda target: linked.add(target) or target)
    for target in sorted(linked):
        if is_source(target) and (path := CHECKOUT / target).is_file():
            file = File.generated(config, f"{SOURCE}/{target}.md", content=page_of(path))
            file.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(file)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to where the site has what they mean, and writes equations as MathML."""
    folder = posixpath.dirname(page.file.src_uri)
    markdown = map_links(
        markdown, page.file.src_uri, lambda target: posixpath.relpath(place_of(target), folder or ".")
    )
    return EQUATION.sub(lambda match: f"<div>{convert(match[1].strip(), display='block')}</div>", markdown)


def map_links(markdown: str, page: str, replace: Callable[[str], str]) -> str:
    """`markdown` with each link to a file given to `replace`, as a path in the repository."""
    folder = posixpath.dirname(page if page in TOP_PAGES else f"docs/{page}")
    return LINK.sub(lambda match: replace(posixpath.normpath(posixpath.join(folder, match[1]))), markdown)


def is_source(target: str) -> bool:
    """Whether a path in the repository is no page and no picture of the site."""
    return target not in TOP_PAGES and not target.startswith("docs/")


def place_of(target: str) -> str:
    """Where the site has a path of the repository."""
    return f"{SOURCE}/{target}.md" if is_source(target) else target.removeprefix("docs/")


def page_of(path: Path) -> str:
    """A page that shows a file; the search leaves it out."""
    name = path.relative_to(CHECKOUT).as_posix()
    text = path.read_text(encoding="utf-8")
    fence = max(re.findall(r"^`{3,}", text, re.MULTILINE), default="``", key=len) + "`"
    language = {".py": "python", ".yaml": "yaml"}.get(path.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n{fence}{language}\n{text}\n{fence}\n"
