"""A small Hugging Face Hub on a loopback port, in memory, so that tests push and read back without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import close_session

USER = "tester"
TOKEN = "hf_test_token"
LFS_SUFFIXES = {".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".png", ".jpg"}
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class HubError(Exception):
    """An answer that is no success: `status` is the HTTP status, `code` the Hub's `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The Hub's identity of the content: sha256 for an LFS file, git's blob hash otherwise."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.oid, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repository:
    """A repository: each commit is a whole snapshot of its files, `branches` names the newest ones."""

    name: str
    private: bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, StoredFile], message: str) -> str:
        parent = self.branches.get(branch, "")
        described = json.dumps([self.name, parent, message, {path: file.oid for path, file in sorted(files.items())}])
        sha = hashlib.sha1(described.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def files(self, revision: str) -> dict[str, StoredFile]:
        return self.commits[self.resolve(revision)]


def upload_mode(path: str) -> str:
    """Which way the Hub takes a file: "lfs" for the suffixes that .gitattributes lists, else "regular"."""
    return "lfs" if PurePosixPath(path).suffix in LFS_SUFFIXES else "regular"


def list_folder(files: dict[str, StoredFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries of the `tree` endpoint under `folder` ("" = the root), folders included."""
    root = PurePosixPath(folder)
    inside = {path: file for path, file in files.items() if PurePosixPath(path).is_relative_to(root)}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents}
    folders = {path for path in folders if PurePosixPath(path) != root and PurePosixPath(path).is_relative_to(root)}
    entries = [describe_folder(path) for path in sorted(folders)]
    entries += [file.describe(path) for path, file in sorted(inside.items())]
    return [entry for entry in entries if recursive or PurePosixPath(entry["path"]).parent == root]


def describe_folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def read_card_metadata(content: str) -> dict[str, Any]:
    """The YAML block of a card; raises `HubError` 400 where it is not a valid mapping, as the Hub does."""
    block = re.match(r"---\n(.*?)\n---(\n|$)", content, re.DOTALL)
    try:
        metadata = yaml.safe_load(block.group(1)) if block else {}
    except yaml.YAMLError as error:
        raise HubError(400, f"not valid YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise HubError(400, "the metadata must be a mapping")
    return metadata


class HubStorage:
    """What the server keeps: repositories by (kind, name) and the LFS objects by their sha256."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def find(self, kind: str, name: str) -> Repository:
        repository = self.repositories.get((kind, name))
        if repository is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def create(self, kind: str, name: str, private: bool) -> bool:
        """Makes a repository with its first commit; returns False where it already exists."""
        with self.lock:
            if (kind, name) in self.repositories:
                return False
            repository = Repository(name, private)
            repository.commit("main", {path: StoredFile(data, False) for path, data in FIRST_FILES.items()}, "init")
            self.repositories[kind, name] = repository
        return True

    def apply(self, repository: Repository, branch: str, lines: list[dict[str, Any]]) -> str:
        """One commit from the operations of the `commit` endpoint; returns its hash."""
        with self.lock:
            if branch not in repository.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            header = next(line["value"] for line in lines if line["key"] == "header")
            if header.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
                raise HubError(412, "A commit has happened since")
            files = dict(repository.files(branch))
            for line in lines:
                self.apply_operation(files, line["key"], line["value"])
            return repository.commit(branch, files, header["summary"])

    def apply_operation(self, files: dict[str, StoredFile], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, f"LFS object of {value['path']} was never uploaded")
            files[value["path"]] = StoredFile(self.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for path in [path for path in files if PurePosixPath(path).is_relative_to(value["path"])]:
                del files[path]


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a handler's method for an HTTP method and a path; `{kind}`, `{name}` ... are its arguments."""
    pieces = {
        "kind": "(?P<kind>models|datasets)",
        "prefix": "(?P<prefix>datasets/)?",
        "name": "(?P<name>[^/]+/[^/]+)",
        "revision": "(?P<revision>[^/]+)",
        "path": "(?P<path>.+)",
        "oid": "(?P<oid>[0-9a-f]{64})",
    }
    compiled = re.compile(pattern.format(**pieces) + "$")

    def register(handler: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, compiled, handler))
        return handler

    return register


class HubRequestHandler(BaseHTTPRequestHandler):
    """The endpoints that huggingface_hub, transformers and datasets use to push, list and read."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: HubServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are kept in `server.requests`, not printed."""
        self.server.requests.append((self.command, unquote(urlsplit(self.path).path)))

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.body = self.read_body()
        self.server.received.append(self.body)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        fault = next((pattern for pattern in self.server.faults if re.search(pattern, url.path)), None)
        if fault is not None:
            if self.server.faults.pop(fault) == "cut":
                self.close_connection = True
                self.connection.close()
                return
            # The connection stays: closed a moment later, the client might have begun its next request on it.
            self.send_json({"error": "busy"}, 503)
            return
        try:
            self.check_token()
            handler, arguments = self.find_route(url.path)
            handler(self, **arguments)
        except HubError as error:
            headers = {"X-Error-Message": str(error).replace("\n", " ")}
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            self.send_json({"error": str(error), "errors": [{"message": str(error)}]}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def find_route(self, path: str) -> tuple[Callable[..., None], dict[str, str]]:
        method = "GET" if self.command == "HEAD" else self.command
        for allowed, pattern, handler in ROUTES:
            match = pattern.match(path)
            if allowed == method and match:
                return handler, {key: unquote(value) for key, value in match.groupdict(default="").items()}
        raise HubError(404, f"no endpoint {self.command} {path}")

    def check_token(self) -> None:
        """Reading is free, writing needs the token; a wrong token is refused always (the Hub's own rules)."""
        given = self.headers.get("Authorization")
        signed_upload = self.command == "PUT"
        writing = self.command == "POST" and not self.path.split("?")[0].endswith("validate-yaml")
        reading_post = "/paths-info/" in self.path
        if given is None and (signed_upload or not writing or reading_post):
            return
        if given != f"Bearer {TOKEN}":
            raise HubError(401, "Invalid credentials in Authorization header")

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    @property
    def storage(self) -> HubStorage:
        return self.server.storage

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        if self.headers.get("Authorization") is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        token = {"displayName": "test", "role": "write"}
        self.send_json({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"accessToken": token}})

    @route("POST", "/api/repos/create")
    def create_repository(self) -> None:
        wanted = json.loads(self.body)
        kind = wanted.get("type", "model") + "s"
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        created = self.storage.create(kind, name, wanted.get("visibility") == "private")
        error = {} if created else {"error": "You already created this repo"}
        self.send_json(
            {"url": self.page(kind, name), "name": name, "id": name, **error}, status=200 if created else 409
        )

    @route("POST", "/api/validate-yaml")
    def validate_card(self) -> None:
        read_card_metadata(json.loads(self.body)["content"])
        self.send_json({"errors": [], "warnings": []})

    @route("POST", "/api/{kind}/{name}/preupload/{revision}")
    def choose_upload_modes(self, kind: str, name: str, revision: str) -> None:
        files = self.storage.find(kind, name).files(revision)
        answers = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            oid = files[path].oid if path in files else None
            answers.append({"path": path, "uploadMode": upload_mode(path), "shouldIgnore": False, "oid": oid})
        self.send_json({"files": answers})

    @route("POST", "/{prefix}{name}.git/info/lfs/objects/batch")
    def prepare_objects(self, prefix: str, name: str) -> None:
        self.storage.find("datasets" if prefix else "models", name)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.storage.objects:
                answer["actions"] = {"upload": {"href": f"{self.server.endpoint}/objects/{wanted['oid']}"}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    @route("PUT", "/objects/{oid}")
    def store_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content does not have the announced sha256")
        self.storage.objects[oid] = self.body
        self.send(b"")

    @route("POST", "/api/{kind}/{name}/commit/{revision}")
    def add_commit(self, kind: str, name: str, revision: str) -> None:
        repository = self.storage.find(kind, name)
        sha = self.storage.apply(repository, revision, [json.loads(line) for line in self.body.splitlines()])
        self.send_json({"success": True, "commitOid": sha, "commitUrl": f"{self.page(kind, name)}/commit/{sha}"})

    @route("GET", "/api/{kind}/{name}")
    def describe_newest(self, kind: str, name: str) -> None:
        self.describe(kind, name, "main")

    @route("GET", "/api/{kind}/{name}/revision/{revision}")
    def describe(self, kind: str, name: str, revision: str) -> None:
        repository = self.storage.find(kind, name)
        files = repository.files(revision)
        card = read_card_metadata(files["README.md"].content.decode()) if "README.md" in files else {}
        described = {"id": name, "sha": repository.resolve(revision), "private": repository.private, "cardData": card}
        described |= {"author": name.split("/")[0], "tags": card.get("tags", []), "downloads": 0, "likes": 0}
        described |= {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
        self.send_json({**described, "siblings": [{"rfilename": path} for path in sorted(files)]})

    @route("GET", "/api/{kind}/{name}/tree/{revision}")
    def list_root(self, kind: str, name: str, revision: str) -> None:
        self.list_tree(kind, name, revision, "")

    @route("GET", "/api/{kind}/{name}/tree/{revision}/{path}")
    def list_tree(self, kind: str, name: str, revision: str, path: str) -> None:
        files = self.storage.find(kind, name).files(revision)
        recursive = self.query.get("recursive", "false").lower() in ("true", "1")
        self.send_json(list_folder(files, path, recursive))

    @route("POST", "/api/{kind}/{name}/paths-info/{revision}")
    def describe_paths(self, kind: str, name: str, revision: str) -> None:
        files = self.storage.find(kind, name).files(revision)
        entries = {entry["path"]: entry for entry in list_folder(files, "", recursive=True)}
        wanted = parse_qs(self.body.decode()).get("paths", [])
        self.send_json([entries[path] for path in wanted if path in entries])

    @route("GET", "/{prefix}{name}/resolve/{revision}/{path}")
    def read_file(self, prefix: str, name: str, revision: str, path: str) -> None:
        repository = self.storage.find("datasets" if prefix else "models", name)
        sha = repository.resolve(revision)
        file = repository.commits[sha].get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        self.send_range(file.content, headers)

    def send_range(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if wanted is None:
            self.send(content, headers=headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if start >= len(content):
            raise HubError(416, "Requested range not satisfiable")
        content_range = f"bytes {start}-{end}/{len(content)}"
        self.send(content[start : end + 1], 206, {**headers, "Content-Range": content_range})

    def page(self, kind: str, name: str) -> str:
        return f"{self.server.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"


class HubServer(ThreadingHTTPServer):
    """The running Hub; a context manager that serves from a thread. `home` is the folder of its clients' caches.

    It keeps what was asked for in `requests` and the contents of all requests in `received`. The first request to a
    path where a key of `faults`, a pattern, is found fails: its value "busy" answers 503, "cut" closes the connection.
    Without a `port` it takes one that is free.
    """

    daemon_threads = True

    def __init__(self, home: Path, port: int = 0):
        super().__init__(("127.0.0.1", port), HubRequestHandler)
        self.home = home
        self.storage = HubStorage()
        self.requests: list[tuple[str, str]] = []
        self.received: list[bytes] = []
        self.faults: dict[str, str] = {}
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """Variables that make a fresh process a client of this Hub (huggingface_hub reads them on import)."""
        return self.environment("home")

    def environment(self, cache: str) -> dict[str, str]:
        """As `env`, with caches of its own in `home / cache`, so that a process has to download what it reads."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.home / cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def __enter__(self) -> HubServer:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture(scope="session")
def hub_port() -> Iterator[int]:
    """Every Hub has the same: clients in other processes read its address on import, which serves all of them then."""
    with socket.socket() as kept:
        # Bound beside the server's own, it keeps others away from the port.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.fixture
def hub(hub_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A fresh, empty Hub for one test; clients in this very process upload to it through LFS too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer(tmp_path / "hub_clients", hub_port) as server:
        yield server
    # Connections that are kept alive would lead to this Hub instead of the next one.
    close_session()
