"""Uploads that the connection or the Hub interrupts go on, and what was uploaded reads back whole."""

import logging
from functools import partial
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from tiny_lavt import tiny_lavt, tiny_processor

from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.hub import uploads
from hf_refseg.hub.model_card import write_model_card
from hf_refseg.hub.uploads import upload


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited between attempts."""
    seconds: list[float] = []
    monkeypatch.setattr(uploads.time, "sleep", seconds.append)
    return seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "model"
    model = tiny_lavt()
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_model_card(folder, model=model)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(hub: HubServer, kind: str, name: str) -> dict[str, bytes]:
    files = hub.storage.repositories[kind, name].files("main")
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


@pytest.mark.parametrize("kind", ["busy", "cut"])
@pytest.mark.parametrize("place", ["preupload", "objects/batch", "^/objects/", "/commit/"])
def test_a_model_arrives_whole(hub: HubServer, waited: list[float], folder: Path, place: str, kind: str) -> None:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("tester/model")
    hub.faults[place] = kind
    upload(partial(api.upload_folder, folder_path=folder, repo_id="tester/model"), folder, "tester/model", "model")
    assert not hub.faults and waited
    assert stored(hub, "models", "tester/model") == contents(folder)


def test_after_the_last_attempt_it_says_how_to_go_on(
    hub: HubServer, waited: list[float], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.shutdown()
    send = partial(HfApi(endpoint="http://127.0.0.1:9", token=TOKEN).upload_folder, folder_path=folder)
    with (
        caplog.at_level(logging.WARNING, logger="hf_refseg"),
        pytest.raises(
            ConnectionError, match=r"in 5 attempts.*Nothing is lost.*hf upload tester/model .* --repo-type m"
        ),
    ):
        upload(partial(send, repo_id="tester/model"), folder, "tester/model", "model")
    interrupted = [record for record in caplog.records if "was interrupted" in record.getMessage()]
    assert len(interrupted) == len(uploads.WAITS)


def test_what_the_hub_refuses_is_not_sent_again(hub: HubServer, waited: list[float], folder: Path) -> None:
    send = partial(HfApi(endpoint=hub.endpoint, token="hf_wrong").upload_folder, folder_path=folder)
    with pytest.raises(HfHubHTTPError):
        upload(partial(send, repo_id="tester/model"), folder, "tester/model", "model")
    assert waited == []


def test_a_data_set_arrives_whole(
    hub: HubServer, waited: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["/commit/"] = "busy"
    sizes = {"train_size": 2, "val_size": 1, "test_size": 1, "image_size": 64}
    options = {**sizes, "cache_dir": tmp_path / "cache"}
    prepared = prepare_dataset("refshapes", None, tmp_path / "shapes", push_to_hub="tester/shapes", **options)
    sent = stored(hub, "datasets", "tester/shapes")
    assert not hub.faults and waited == [1]
    assert {"README.md", "data/train-00000-of-00001.parquet"} <= sent.keys()
    assert all((prepared / path).read_bytes() == content for path, content in sent.items())
