"""The demo page: what stands on it and what happens by a click. What is done then lies in the other files."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..evaluation.systems import ModelSystem, System
from ..files import unique_names
from ..messages import EXPECTED_ERRORS, message_of
from ..systems import short_name
from ..visualization import distinct_color
from .examples import Example
from .exporting import write_files
from .segmenting import (
    MAX_EXPRESSIONS,
    RequestError,
    Segmentation,
    Subject,
    read_expressions,
    read_picture,
    read_video,
    segment,
)
from .showing import describe_masks, draw_picture, explain, tells_how, write_overlay_video

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo page needs gradio: pip install 'hf_refseg[demo]'.") from error

# In seconds: how long answers are kept, how long files are, and how often files are looked through.
ANSWERS_KEPT, FILES_KEPT, LOOKED_THROUGH = 1800, 3600, 600
# Models are asked one after the other, whoever asks.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "systems", "concurrency_limit": 1}
# No part of the page is a service for programs: `hf-refseg predict` is.
OF_THE_PAGE: dict[str, Any] = {"api_visibility": "private"}
PROGRESS = gr.Progress()
MAX_UPLOAD = "200mb"
# In pixels of the page; phones have 360 and more.
NARROWEST_COLUMN = 320
WHAT_THRESHOLD = "Probability above which a pixel belongs to a mask."
WHY_NO_THRESHOLD = "This system answers with masks, to which no threshold matters."


@dataclass(frozen=True)
class Medium:
    """What differs between pictures and videos.

    Attributes:
        name: in the singular.
        read: from the file that was uploaded; raises `RequestError`.
        build_input: the component for uploads.
        build_output: the component for what is drawn, with a label.
        draw: what that component shows; may write files to a folder.
    """

    name: str
    read: Callable[[str | None], Subject]
    build_input: Callable[[], gr.Image | gr.Video]
    build_output: Callable[[str], gr.Image | gr.Video]
    draw: Callable[[Segmentation, float, Sequence[int], Path], Any]


def _picture_input() -> gr.Image:
    component = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], height=320)
    # By itself it opens the file, and has no words for one that is damaged or too large.
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


PICTURES = Medium(
    name="picture",
    read=read_picture,
    build_input=_picture_input,
    build_output=lambda label: gr.Image(
        label=label, format="jpeg", interactive=False, buttons=["fullscreen"], alt_text=f"Masks of {label}, in colors"
    ),
    draw=lambda segmentation, threshold, shown, folder: draw_picture(segmentation, threshold, shown),
)
VIDEOS = Medium(
    name="video",
    read=read_video,
    build_input=lambda: gr.Video(label="Video", sources=["upload"], height=320),
    build_output=lambda label: gr.Video(label=label, interactive=False, buttons=[], autoplay=True, loop=True),
    draw=lambda segmentation, threshold, shown, folder: write_overlay_video(
        segmentation, threshold, shown, folder / "overlay.mp4"
    ),
)


@dataclass(frozen=True, eq=False)
class Request:
    """What a user asks for: a picture or video, the expressions, and the titles of the systems that are asked."""

    subject: Subject
    texts: tuple[str, ...]
    titles: Sequence[str]


@contextmanager
def telling() -> Iterator[None]:
    """A context in which what may go wrong becomes a message on the page, which stays until it is closed."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        raise gr.Error(html.escape(message_of(error)), duration=None, print_exception=False) from error


class Panel:
    """What one system answers, as a column of the page.

    Args:
        system: the system.
        title: what it is called on the page.
        medium: pictures or videos.
    """

    def __init__(self, system: System, title: str, medium: Medium) -> None:
        self.system, self.title, self.medium = system, title, medium
        self.explanation: Explanation | None = None
        with gr.Column(visible=False, min_width=NARROWEST_COLUMN) as self.column:
            self.answers = gr.State(time_to_live=ANSWERS_KEPT)
            self.drawn = medium.build_output(title)
            self.masks = gr.CheckboxGroup(label=f"Masks of {title}", elem_classes="refseg-masks")
            self.threshold = gr.Slider(
                minimum=0,
                maximum=1,
                value=system.threshold,
                step=0.01,
                label="Threshold",
                info=WHY_NO_THRESHOLD if system.gives_masks else WHAT_THRESHOLD,
                interactive=not system.gives_masks,
            )
            self.taken = gr.Markdown()
            if tells_how(system, of_videos=medium is VIDEOS):
                self.explanation = Explanation(system, self.answers)
            make = gr.Button("Make files of the masks", size="sm")
            self.files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False)
        inputs = [self.answers, self.threshold, self.masks]
        gr.on(
            [self.threshold.input, self.masks.input],
            self.redraw,
            inputs,
            [self.drawn, self.masks, self.files],
            trigger_mode="always_last",
            show_progress_on=self.drawn,
            **OF_THE_PAGE,
        )
        make.click(self.make_files, inputs, self.files, **OF_THE_PAGE)

    @property
    def outputs(self) -> list[Any]:
        """The components that `run` changes."""
        explanation = self.explanation.outputs if self.explanation else []
        return [self.answers, self.drawn, self.masks, self.taken, self.files, *explanation]

    def run(self, request: Request, threshold: float, progress: gr.Progress = PROGRESS) -> Iterator[tuple[Any, ...]]:
        """Asks the system, where it is to be asked, and gives what `outputs` are then.

        What is drawn is given as it is, never as an update: gradio loses sight of the files of components that were
        updated, and would not remove them.
        """
        # Before it answers as well: beside an error there is nothing left of what was asked before.
        yield None, None, gr.CheckboxGroup(choices=[]), "", None, *([None, None] if self.explanation else [])
        if self.title not in request.titles:
            return
        with telling(), TemporaryDirectory() as folder:
            report = _report_to(progress, self.title)
            found = segment(self.system, request.subject, request.texts, report)
            places = list(range(len(found.texts)))
            drawn = self.medium.draw(found, threshold, places, Path(folder))
            switches = gr.CheckboxGroup(choices=_choices(found, threshold), value=places)
            explanation = self.explanation.begin(found) if self.explanation else ()
            yield found, drawn, switches, f"Took {found.seconds:.2f} seconds.", gr.File(visible=False), *explanation

    def redraw(
        self, segmentation: Segmentation | None, threshold: float, shown: Sequence[int]
    ) -> Iterator[tuple[Any, ...]]:
        """What the switches and the threshold change, out of what the system has answered."""
        with telling(), TemporaryDirectory() as folder:
            kept = _require_kept(segmentation)
            drawn = self.medium.draw(kept, threshold, shown, Path(folder))
            yield drawn, gr.CheckboxGroup(choices=_choices(kept, threshold)), gr.File(visible=False)

    def make_files(
        self, segmentation: Segmentation | None, threshold: float, shown: Sequence[int]
    ) -> Iterator[gr.File]:
        """The files to take along; gradio has copied them when the folder is removed."""
        with telling(), TemporaryDirectory() as folder:
            paths = write_files(_require_kept(segmentation), threshold, shown, Path(folder))
            yield gr.File(list(map(str, paths)), visible=True)


class Explanation:
    """A part of a system's column: how it came to the mask of one expression.

    Args:
        system: one that `tells_how`.
        answers: what it has answered.
    """

    def __init__(self, system: ModelSystem, answers: gr.State) -> None:
        self.system = system
        with gr.Accordion("Where each word looks", open=False):
            self.expression = gr.Dropdown(label="Expression", type="value")
            ask = gr.Button("Show", size="sm")
            self.maps = gr.Gallery(
                label="How the model came to the mask",
                preview=True,
                object_fit="contain",
                format="png",
                visible=False,
            )
        ask.click(self.explain, [answers, self.expression], self.maps, **ONE_AT_A_TIME, **OF_THE_PAGE)

    @property
    def outputs(self) -> list[Any]:
        """The components that `begin` changes."""
        return [self.expression, self.maps]

    def begin(self, segmentation: Segmentation) -> tuple[gr.Dropdown, gr.Gallery]:
        """What `outputs` are once the system has answered."""
        choices = [(text, place) for place, text in enumerate(segmentation.texts)]
        return gr.Dropdown(choices=choices, value=0), gr.Gallery(visible=False)

    def explain(self, segmentation: Segmentation | None, place: int) -> gr.Gallery:
        """Pictures about the expression of this place."""
        with telling():
            return gr.Gallery(list(explain(self.system, _require_kept(segmentation), place)), visible=True)


def _choices(segmentation: Segmentation, threshold: float) -> list[tuple[str, int]]:
    return [(line, place) for place, line in enumerate(describe_masks(segmentation, threshold))]


def _require_kept(segmentation: Segmentation | None) -> Segmentation:
    if segmentation is None:
        raise RequestError(f"Answers are kept for {ANSWERS_KEPT // 60} minutes: segment once more.")
    return segmentation


def build_page(systems: Sequence[System], examples: Sequence[Example] = ()) -> gr.Blocks:
    """The page, which `launch` shows.

    Args:
        systems: what is asked, one or several; the first two are chosen to begin with.
        examples: pictures and videos to pick.

    Raises:
        ValueError: there is no system.
    """
    if not systems:
        raise ValueError("There is nothing to show: pass one system at least.")
    titles = unique_names(short_name(system.name) for system in systems)
    with gr.Blocks(
        title="Referring segmentation", analytics_enabled=False, delete_cache=(LOOKED_THROUGH, FILES_KEPT)
    ) as page:
        gr.Markdown("# Referring segmentation\nA picture or a video and sentences in, a mask for each sentence out.")
        for medium in (PICTURES, VIDEOS):
            with gr.Tab(medium.name.capitalize()):
                of_medium = [example for example in examples if example.is_video == (medium is VIDEOS)]
                _build_tab(medium, dict(zip(titles, systems, strict=True)), of_medium)
    return page


def _build_tab(medium: Medium, systems: dict[str, System], examples: Sequence[Example]) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=NARROWEST_COLUMN):
            source = medium.build_input()
            expressions = gr.Textbox(
                label="Expressions",
                info=f"What to segment, one on each line (at most {MAX_EXPRESSIONS}). Shift and Enter segments.",
                lines=3,
                max_lines=MAX_EXPRESSIONS,
            )
            chosen = gr.CheckboxGroup(list(systems), value=list(systems)[:2], label="Models", visible=len(systems) > 1)
            button = gr.Button("Segment", variant="primary")
            if examples:
                gr.Examples(
                    [[str(example.path), example.expressions] for example in examples],
                    [source, expressions],
                    cache_examples=False,
                    label="Examples",
                    # A single column is made of buttons, which the keyboard reaches.
                    visible_columns=[0],
                )
        with gr.Column(scale=2, min_width=NARROWEST_COLUMN), gr.Row():
            panels = [Panel(system, title, medium) for title, system in systems.items()]

    request = gr.State(time_to_live=ANSWERS_KEPT)

    def read(given: dict[Any, Any]) -> Request:
        with telling():
            subject, texts = medium.read(given[source]), read_expressions(given[expressions])
            if not given[chosen]:
                raise RequestError("No model is chosen: choose one at least.")
            return Request(subject, texts, given[chosen])

    # What cannot be read is told before anything that has been answered is covered by the progress.
    begun = gr.on([button.click, expressions.submit], read, {source, expressions, chosen}, request, **OF_THE_PAGE)
    begun = begun.success(
        lambda wanted: {panel.column: gr.Column(visible=panel.title in wanted.titles) for panel in panels},
        request,
        [panel.column for panel in panels],
        **OF_THE_PAGE,
    )
    for panel in panels:
        begun = begun.then(
            panel.run,
            [request, panel.threshold],
            panel.outputs,
            show_progress_on=panel.drawn,
            **ONE_AT_A_TIME,
            **OF_THE_PAGE,
        )


def _report_to(progress: gr.Progress, title: str) -> Callable[[float, str], None]:
    return lambda share, what: progress(share, desc=f"{title}: {what}")


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Shows a page of `build_page` in browsers, until the process ends.

    Args:
        page: the page.
        options: those of gradio's `launch`, such as `server_name`, `server_port`, `share` and `prevent_thread_lock`.

    Returns:
        What gradio's `launch` does.
    """
    # Fonts of the system: nothing is fetched from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    # Colors far enough from the background to be read, which some of the theme's own are not.
    theme.set(
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
    )
    ours = {"theme": theme, "css": _style(), "ssr_mode": False, "footer_links": [], "max_file_size": MAX_UPLOAD}
    return page.launch(**{**ours, **options})


def _style() -> str:
    """Rules that give each switch of a mask its color, and texts colors that can be read where the theme has none."""
    switches = (
        f".refseg-masks label:nth-of-type({place + 1}) "
        f"{{ border-inline-start: 0.8em solid rgb{distinct_color(place)}; }}"
        for place in range(MAX_EXPRESSIONS)
    )
    others = (
        ".slider_input_container span { color: var(--body-text-color); }",
        # The theme has a single accent for light and dark.
        ".dark { --color-accent: var(--primary-500); }",
    )
    return "\n".join([*switches, *others])
