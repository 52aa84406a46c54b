"""A folder with what README and the pages speak of: models, pictures, videos, data sets and predictions."""

import json
import shlex
from pathlib import Path

import datasets
import pytest
from command_line import output_of
from folder_trees import make_metadata, write_picture
from refer_trees import make_refcoco, make_rrsisd
from tiny_detectors import tiny_grounding_dino, tiny_sam, tiny_sam2
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import noise, save, tiny_clipseg

from hf_refseg import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.training.recipe_files import find_recipe


def draw_page_folder(root: Path) -> Path:
    """Draws all of it, small, under the names that the pages use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        save(Path("runs/demo"), tiny_lavt(), tiny_processor())
        noise(50, 40).save("runs/demo/example.png")
        for name in ("MODEL", "lavt-refcoco", "magnet-refcoco", "runs/mine"):
            Path(name).symlink_to(Path("runs/demo").absolute(), target_is_directory=True)
        save(Path("CIDAS/clipseg-rd64-refined"), *tiny_clipseg())
        save(Path("IDEA-Research/grounding-dino-tiny"), *tiny_grounding_dino())
        Path("IDEA-Research/grounding-dino-base").symlink_to("grounding-dino-tiny", target_is_directory=True)
        save(Path("facebook/sam-vit-base"), *tiny_sam())
        Path("facebook/sam-vit-huge").symlink_to("sam-vit-base", target_is_directory=True)
        save(Path("facebook/sam2.1-hiera-tiny"), *tiny_sam2())
        Path("SYSTEM").symlink_to("CIDAS/clipseg-rd64-refined", target_is_directory=True)
        for name in ("photo.jpg", "other.png", "scene.png", "more/inside/third.png"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            noise(50, 40).save(name)
        make_metadata(Path("photos"))
        for number in range(5, 15):
            write_picture(Path(f"photos/{number}.png"), number)
        # A video may be a folder of frames as well.
        for folder in ("clip.mp4", "frames"):
            Path(folder).mkdir()
            for number in range(2):
                noise(32, 32).save(f"{folder}/{number}.jpg")
        make_refcoco(Path("data"))
        make_rrsisd(Path("data"))
        prepare_dataset("refcoco", "data", "data/refcoco_parquet", num_proc=1)
        # As if it were on the Hub.
        Path("user").mkdir()
        Path("user/model").symlink_to("../runs/demo", target_is_directory=True)
        for name in ("refcoco", "photos"):
            Path("user", name).symlink_to("../data/refcoco_parquet", target_is_directory=True)
        Path("refcoco_family_val_test_image_ids.json").write_text("[99]")
        # A recipe of somebody.
        Path("my_recipe.yaml").write_text(find_recipe("lavt_refcoco").read_text(encoding="utf-8"))
        answers = [
            {"image_id": row["image_id"], "sent_id": each["sent_id"], "mask": row["mask"]}
            for rows in load_refseg("refcoco", "data", splits=["val", "testA"]).values()
            for row in rows
            for each in row["sentences"]
        ]
        lines = [{"format": "hf_refseg-predictions", "version": 1}, *answers]
        for name in ("predictions", "lavt", "theirs"):
            Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        scored = Path("runs/evaluate/lavt")
        output_of(*shlex.split("evaluate MODEL refcoco --data-dir data --split val --protocol lavt --output"), scored)
        for name in ("magnet", "lavt-refcoco", "magnet-refcoco"):
            scored.with_name(name).symlink_to("lavt", target_is_directory=True)
        for name in ("lavt", "magnet", "risam"):
            Path(name).symlink_to(scored, target_is_directory=True)
    return root
