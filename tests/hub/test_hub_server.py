"""The test Hub behaves as the real one: commits, listings, LFS, errors, and data sets that a fresh process reads."""

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fresh_process import run_python
from hub_server import TOKEN, HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def download(hub: HubServer, name: str, path: str, cache: Path, **options) -> bytes:
    """The content of a file as a client gets it."""
    return Path(
        hf_hub_download(name, path, endpoint=hub.endpoint, token=TOKEN, cache_dir=cache, **options)
    ).read_bytes()


def test_uploaded_folder_comes_back_unchanged(hub, api, tmp_path):
    weights = bytes(range(256)) * 40
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "deep" / "model.safetensors").write_bytes(weights)
    assert api.create_repo("tester/model").repo_id == "tester/model"
    commit = api.upload_folder(folder_path=folder, repo_id="tester/model")

    assert set(api.list_repo_files("tester/model")) == {".gitattributes", "config.json", "deep/model.safetensors"}
    assert download(hub, "tester/model", "config.json", tmp_path / "cache") == b'{"a": 1}'
    assert download(hub, "tester/model", "deep/model.safetensors", tmp_path / "cache") == weights
    info = api.model_info("tester/model")
    assert (info.id, info.sha) == ("tester/model", commit.oid)
    (listed,) = api.list_repo_tree("tester/model", "deep")
    assert (listed.size, listed.lfs.sha256) == (len(weights), hashlib.sha256(weights).hexdigest())
    (described,) = api.get_paths_info("tester/model", ["deep/model.safetensors", "absent"])
    assert described.blob_id == listed.blob_id
    assert {entry.path for entry in api.list_repo_tree("tester/model")} == {".gitattributes", "config.json", "deep"}


def test_every_commit_stays_readable(hub, api, tmp_path):
    api.create_repo("model")
    first = api.upload_file(path_or_fileobj=b"one", path_in_repo="note.txt", repo_id="tester/model")
    second = api.upload_file(path_or_fileobj=b"two", path_in_repo="note.txt", repo_id="tester/model")
    same = api.upload_file(path_or_fileobj=b"two", path_in_repo="note.txt", repo_id="tester/model")
    assert first.oid != second.oid == same.oid
    assert download(hub, "tester/model", "note.txt", tmp_path, revision=first.oid) == b"one"
    assert download(hub, "tester/model", "note.txt", tmp_path) == b"two"
    operations = [CommitOperationDelete("note.txt"), CommitOperationAdd("new.txt", b"three")]
    api.create_commit("tester/model", operations, commit_message="replace")
    assert set(api.list_repo_files("tester/model")) == {".gitattributes", "new.txt"}


def test_what_is_absent_has_the_right_error(hub, api, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tester/absent")
    api.create_repo("tester/model")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("tester/model")
    with pytest.raises(EntryNotFoundError):
        download(hub, "tester/model", "absent.txt", tmp_path)
    with pytest.raises(RevisionNotFoundError):
        download(hub, "tester/model", ".gitattributes", tmp_path, revision="absent")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("tester/model", "absent"))


def test_conflicts_wrong_tokens_and_lost_objects_are_refused(hub, api):
    api.create_repo("tester/model")
    assert api.create_repo("tester/model", exist_ok=True).repo_id == "tester/model"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("tester/model")
    stranger = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="tester/model")
    assert api.list_repo_files("tester/model") == [".gitattributes"]
    request = urllib.request.Request(f"{hub.endpoint}/objects/{'0' * 64}", data=b"other", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


def test_broken_card_metadata_and_stale_parents_are_refused(hub, api):
    api.create_repo("tester/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="tester/model")
    good = b"---\nlicense: apache-2.0\ntags: [one]\n---\n# Card\n"
    api.upload_file(path_or_fileobj=good, path_in_repo="README.md", repo_id="tester/model")
    assert api.model_info("tester/model").card_data.to_dict() == {"license": "apache-2.0", "tags": ["one"]}
    stale = api.model_info("tester/model").sha
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="tester/model")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"y", path_in_repo="x.txt", repo_id="tester/model", parent_commit=stale)


def test_ranges_of_a_file(hub, api):
    api.create_repo("tester/model")
    api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="data.bin", repo_id="tester/model")
    url = f"{hub.endpoint}/tester/model/resolve/main/data.bin"

    def read(wanted: str) -> tuple[int, bytes]:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": wanted})) as answer:
            return answer.status, answer.read()

    assert read("bytes=2-4") == (206, b"234")
    assert read("bytes=7-") == (206, b"789")
    with pytest.raises(urllib.error.HTTPError, match="416"):
        read("bytes=10-")


@pytest.mark.slow_process
def test_a_pushed_data_set_is_read_by_a_fresh_process(hub, tmp_path):
    push = """
    import numpy as np
    from datasets import Dataset, DatasetDict, Features, Image, Value
    from PIL import Image as PILImage

    def split(values):
        images = [PILImage.fromarray(np.full((6, 8, 3), value, np.uint8)) for value in values]
        features = Features({"image": Image(), "text": Value("string")})
        return Dataset.from_dict({"image": images, "text": [f"grey {value}" for value in values]}, features=features)

    DatasetDict({"val": split([10, 20]), "testA": split([30])}).push_to_hub("tester/greys")
    """
    run_python(push, cwd=tmp_path, env=hub.env)
    read = """
    import json
    from datasets import load_dataset

    splits = load_dataset("tester/greys")
    print(json.dumps({
        name: [[row["text"], row["image"].size, row["image"].getpixel((0, 0))] for row in rows]
        for name, rows in splits.items()
    }))
    """
    rows = json.loads(run_python(read, cwd=tmp_path, env=hub.environment("reader")).splitlines()[-1])
    assert rows == {
        "val": [["grey 10", [8, 6], [10, 10, 10]], ["grey 20", [8, 6], [20, 20, 20]]],
        "testA": [["grey 30", [8, 6], [30, 30, 30]]],
    }
    assert any(path.endswith(".parquet") for _, path in hub.requests)
