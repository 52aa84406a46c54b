"""Released video LAVT checkpoints as `VideoLavtForReferringSegmentation`."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedConfig

from ..modeling.configuration_video_lavt import VideoLavtConfig
from ..modeling.configuration_video_swin_refseg import VideoSwinConfig
from ..modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from .encoders import UNUSED_ENCODER_TENSORS, read_swin_config, read_text_config, required_shape
from .lavt import RULES as LAVT_RULES
from .released_files import load_converted, rename_tensors, sizes_of_checkpoint, state_dict_of
from .torch_files import CheckpointError

RELEASED_WINDOWS = ((8, 7, 7), (8, 12, 12))
FIRST_BLOCK = "backbone.layers.0.blocks.0.attn."

FUSION = r"backbone\.layers\.(\d+)\.fusion\."
OUR_FUSION = r"stages.\1.fusion."
# The convolution over time and space, then the one beside it.
BRANCHES = {
    r"temporal_vis_project\.0\.(.+)": r"project_pixels.branches.0.0.\2",
    r"spatial_vis_project\.0\.(.+)": r"project_pixels.branches.1.0.\2",
    r"f_query_t\.0\.(.+)": r"language_maps.query.branches.0.0.\2",
    r"f_query_s\.0\.(.+)": r"language_maps.query.branches.1.0.\2",
    r"W_t\.0\.(.+)": r"language_maps.output.branches.0.0.\2",
    r"W_s\.0\.(.+)": r"language_maps.output.branches.1.0.\2",
    r"project_mm_t\.0\.(.+)": r"project_fused.0.branches.0.0.\2",
    r"project_mm_s\.0\.(.+)": r"project_fused.0.branches.1.0.\2",
}


def _video_swin_rules(num_stages: int) -> list[tuple[str, str]]:
    """From released names to torchvision's, where stages and patch mergings alternate."""
    blocks = {
        r"norm([12])\.(.+)": r"norm\2.\3",
        r"attn\.(.+)": r"attn.\2",
        r"mlp\.fc1\.(.+)": r"mlp.0.\2",
        r"mlp\.fc2\.(.+)": r"mlp.3.\2",
    }
    rules = [(r"backbone\.patch_embed\.(.+)", r"backbone.patch_embed.\1")]
    for stage in range(num_stages):
        layer = rf"backbone\.layers\.{stage}\."
        rules.append((layer + r"downsample\.(.+)", rf"backbone.features.{2 * stage + 1}.\1"))
        rules += [
            (layer + r"blocks\.(\d+)\." + theirs, rf"backbone.features.{2 * stage}.\1.{ours}")
            for theirs, ours in blocks.items()
        ]
    return rules


def _rules(num_stages: int) -> list[tuple[str, str]]:
    shared = [(theirs, ours) for theirs, ours in LAVT_RULES if "backbone.model" not in ours and ".fusion." not in ours]
    fusion = [(FUSION + theirs, OUR_FUSION + ours) for theirs, ours in BRANCHES.items()]
    fusion.append((FUSION + r"f_(key|value)\.0\.(.+)", OUR_FUSION + r"language_maps.\2.\3"))
    return [*_video_swin_rules(num_stages), *fusion, *shared]


def convert_video_lavt_checkpoint(
    checkpoint: Mapping,
    *,
    text_config: PreTrainedConfig | dict | None = None,
    window_size: Sequence[int] | None = None,
    **config_overrides,
) -> VideoLavtForReferringSegmentation:
    """Turns the dictionary of a released video LAVT checkpoint, one with structure 12 and BERT inside, into a model.

    Depths, widths and heads are read off the tensors, and the window too where they determine it.

    Args:
        checkpoint: what `hf_refseg.convert.load_checkpoint` returns for a released file.
        text_config: configuration of the text encoder; if absent it is read off the tensors, with heads of 64 channels
            as in BERT (the tensors do not tell the number of heads).
        window_size: frames, height and width of the attention's windows; needed where several windows have position
            tables as long as those of the checkpoint.
        config_overrides: fields of [`VideoLavtConfig`] that tensors do not tell, such as `loss_type`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: where the checkpoint is not video LAVT's, or leaves the window open; the windows that it
            allows are listed.
    """
    tensors = state_dict_of(checkpoint, "model")
    swin = read_swin_config(tensors)
    with sizes_of_checkpoint():
        config = VideoLavtConfig(
            **{
                "backbone_config": VideoSwinConfig(
                    **{name: swin[name] for name in ("patch_size", "embed_dim", "depths", "num_heads", "mlp_ratio")},
                    window_size=read_window(tensors, window_size),
                    drop_path_rate=swin["drop_path_rate"],
                ),
                "text_config": read_text_config(tensors, text_config),
                **config_overrides,
            }
        )
    last = len(swin["depths"]) - 1
    # The gate of the last stage, whose output nothing reads.
    dropped = UNUSED_ENCODER_TENSORS + rf"|backbone\.layers\.{last}\.res_gate\..*"
    renamed = rename_tensors(tensors, _rules(last + 1), dropped)
    return load_converted(VideoLavtForReferringSegmentation, config, tensors, renamed)


def read_window(tensors: Mapping[str, Tensor], given: Sequence[int] | None) -> list[int]:
    """Frames, height and width of the windows: the `given` ones or, without any, those that the tensors determine.

    A position table has (2 frames - 1) (2 height - 1) (2 width - 1) rows; where the index that belongs to it was
    saved too, it has as many rows as a window has positions. Windows are taken to be square.

    Raises:
        CheckpointError: no window fits, or several do and none is given, or the given one does not fit.
    """
    rows = required_shape(tensors, FIRST_BLOCK + "relative_position_bias_table", 2)[0]
    if given is not None:
        if len(given) != 3:
            raise CheckpointError(f"window_size has three numbers (frames, height, width), got {list(given)}.")
        positions = _window_positions(tensors)
        if positions is not None and math.prod(given) != positions:
            raise CheckpointError(
                f"the checkpoint's windows have {positions} positions, those of {_named(given)} have "
                f"{math.prod(given)}: leave window_size out, or pass another one."
            )
        if table_rows(given) != rows:
            raise CheckpointError(
                f"the checkpoint's position tables have {rows} rows, but windows of {_named(given)} need "
                f"{table_rows(given)}: pass another window_size, such as {_listed(candidate_windows(tensors, rows))}."
            )
        return list(given)
    candidates = candidate_windows(tensors, rows)
    if not candidates:
        raise CheckpointError(f"the checkpoint's position tables ({rows} rows) are of no square windows.")
    if len(candidates) != 1:
        raise CheckpointError(
            f"the checkpoint's position tables ({rows} rows) do not determine its windows: pass window_size (frames, "
            f"height, width), such as {_listed(candidates)}."
        )
    return list(candidates[0])


def candidate_windows(tensors: Mapping[str, Tensor], rows: int) -> list[tuple[int, int, int]]:
    """Windows, more than one position wide, whose tables have so many rows; those that were released come first."""
    positions = _window_positions(tensors)
    windows = []
    for side in range(2, rows + 1):
        area = (2 * side - 1) ** 2
        if area > rows:
            break
        if rows % area == 0 and rows // area % 2:
            windows.append(((rows // area + 1) // 2, side, side))
    if positions is not None:
        windows = [window for window in windows if math.prod(window) == positions]
    return sorted(windows, key=lambda window: window not in RELEASED_WINDOWS)


def _window_positions(tensors: Mapping[str, Tensor]) -> int | None:
    """Positions within a window, where the checkpoint has the index of them."""
    name = FIRST_BLOCK + "relative_position_index"
    return required_shape(tensors, name, 2)[0] if name in tensors else None


def table_rows(window: Sequence[int]) -> int:
    frames, height, width = window
    return (2 * frames - 1) * (2 * height - 1) * (2 * width - 1)


def _named(window: Sequence[int]) -> str:
    return " x ".join(str(extent) for extent in window)


def _listed(windows: Sequence[Sequence[int]]) -> str:
    return " or ".join(_named(window) for window in windows or RELEASED_WINDOWS)
