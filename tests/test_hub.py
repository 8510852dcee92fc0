"""Model names: bundled, paths, a ModelScope played by a local server, Hugging Face by a stub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from passreid import hub
from passreid.embed import load
from passreid.errors import ConfigError, MissingExtraError, ModelNotFoundError, PassreidError
from passreid.hub import bundled, resolve
from tests.fake_modelscope import FILES, ID, FakeModelScope


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModelScope]:
    """Serve a fake ModelScope, and make it the one that is asked."""
    server = FakeModelScope()
    thread = threading.Thread(target=server.server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("PASSREID_MODELSCOPE_URL", server.url + "/")
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own settings, cache and working folder out of the tests."""
    for name in ("PASSREID_OFFLINE", "HF_HUB_OFFLINE", "PASSREID_MODELSCOPE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PASSREID_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestPlaces:
    """Names that need no hub."""

    @pytest.fixture
    def models(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "package"
        for name in ("passreid-small", "passreid-tiny", "unfinished"):
            (folder / name).mkdir(parents=True)
            if name != "unfinished":
                (folder / name / "model.json").write_text("{}")
        monkeypatch.setattr(hub, "MODELS", folder)
        return folder

    def test_bundled_models(self, models: Path) -> None:
        assert bundled() == ["passreid-small", "passreid-tiny"]
        assert resolve("passreid-tiny") == models / "passreid-tiny"

    def test_a_mistyped_name_gets_the_nearest(self, models: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="Did you mean 'passreid-tiny'"):
            resolve("passreid-tny")

    def test_a_name_like_nothing_gets_the_list(self, models: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="Known: passreid-small, passreid-tiny"):
            resolve("qqqq")

    def test_no_bundled_models_at_all(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(hub, "MODELS", tmp_path / "none")
        assert bundled() == []
        with pytest.raises(ModelNotFoundError, match="no bundled model and no file of that name"):
            resolve("tiny")

    def test_folders_and_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "damo" / "m@1").mkdir(parents=True)
        (tmp_path / "m.pth").write_bytes(b"x")
        with pytest.raises(ModelNotFoundError, match="holds no weight file"):
            resolve("damo/m@1")
        (tmp_path / "damo" / "m@1" / "m.pth").write_bytes(b"x")
        assert resolve("damo/m@1") == Path("damo/m@1")  # a folder comes before a hub
        assert resolve(tmp_path / "m.pth") == tmp_path / "m.pth"
        monkeypatch.setenv("HOME", str(tmp_path))
        assert resolve("~/m.pth") == tmp_path / "m.pth"
        with pytest.raises(ModelNotFoundError, match="no such file"):
            resolve("~nobody-of-this-name/m.pth")

    @pytest.mark.parametrize(
        "name", ["./runs/model", "/no/such", "m.pth", "a/b/c", "runs\\m", Path("runs/model")]
    )
    def test_missing_paths_are_not_looked_up(self, name: str | Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"no such file|no bundled model"):
            resolve(name)

    @pytest.mark.parametrize(
        "name",
        [
            "hf:one",
            "modelscope:a/b/c",
            "hf:a/..b",
            "hf:a/b@",
            "hf:a/b@x/y",
            "hf:a/b/../c.pth",
            "modelscope:a/b/c.pth",
        ],
    )
    def test_malformed_ids(self, name: str) -> None:
        with pytest.raises(ModelNotFoundError, match=r"expected (hf|modelscope):owner/name"):
            resolve(name)


@pytest.mark.loopback
@pytest.mark.enable_socket
class TestModelScope:
    """Fetched over HTTP from a server on this machine."""

    def test_only_weights_and_description_are_fetched(
        self, fake: FakeModelScope, tmp_path: Path
    ) -> None:
        folder = resolve(ID)
        assert folder == tmp_path / "cache" / "modelscope" / "damo" / "cv_passvitb@master"
        assert leftovers(tmp_path / "cache") == [
            f"modelscope/damo/cv_passvitb@master/{name}"
            for name in ("configuration.json", "pytorch_model.pt")
        ]
        assert (folder / "pytorch_model.pt").read_bytes() == FILES["pytorch_model.pt"]

    def test_the_cache_needs_no_network(self, fake: FakeModelScope) -> None:
        folder = resolve(ID)
        count = len(fake.requests)
        assert resolve(ID) == folder and resolve(ID, offline=True) == folder
        assert len(fake.requests) == count

    def test_revisions_and_places(
        self, fake: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSREID_CACHE", str(tmp_path / "other"))
        folder = resolve(f"modelscope:{ID}@v1.0")
        assert folder == tmp_path / "other" / "modelscope" / "damo" / "cv_passvitb@v1.0"
        assert all("Revision=v1.0" in request for request in fake.requests)
        with pytest.raises(ModelNotFoundError, match=r"does not exist on .* at 'v9'"):
            resolve(f"{ID}@v9")

    def test_safetensors_come_first(self, fake: FakeModelScope) -> None:
        fake.files |= {"model.safetensors": b"safe", "model.json": b"{}"}
        names = {path.name for path in resolve(ID).iterdir()}
        assert names == {"model.safetensors", "model.json", "configuration.json"}

    def test_other_weights_if_there_are_no_known_ones(self, fake: FakeModelScope) -> None:
        fake.files = {"transformer_120.pth": b"w", "notes.txt": b"n"}
        assert [path.name for path in resolve(ID).iterdir()] == ["transformer_120.pth"]

    def test_many_at_once(self, fake: FakeModelScope, tmp_path: Path) -> None:
        fake.delay = 0.05
        with ThreadPoolExecutor(4) as pool:
            folders = set(pool.map(lambda _: resolve(ID), range(4)))
        assert len(folders) == 1 and len(leftovers(tmp_path / "cache")) == 2
        assert len(list((tmp_path / "cache" / "modelscope" / "damo").iterdir())) == 1

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"Sha256": "0" * 64}, "pytorch_model.pt whose SHA-256 is not the listed one"),
            ({"Size": 6999}, "sent more bytes of pytorch_model.pt than the 6999 listed"),
            ({"Size": 7001}, "sent fewer bytes of pytorch_model.pt than the 7001 listed"),
            ({"Size": "7000"}, "a file list that cannot be read"),
            ({"Path": "../../evil.pt"}, "lists a file outside its folder .'../../evil.pt'"),
            ({"Path": "/etc/evil.pt"}, "lists a file outside its folder"),
            ({"Path": "..\\evil.pt"}, "lists a file outside its folder"),
            ({"Path": "C:evil.pt"}, "lists a file outside its folder"),
            ({"Path": "weights/pytorch_model.pt"}, "has no weight file"),
        ],
    )
    def test_what_is_not_as_listed_is_not_kept(
        self, fake: FakeModelScope, tmp_path: Path, entry: dict[str, Any], message: str
    ) -> None:
        fake.listed["pytorch_model.pt"] = entry
        with pytest.raises(ModelNotFoundError, match=message) as error:
            resolve(ID)
        assert ID in str(error.value) and "by hand" in str(error.value)
        assert not leftovers(tmp_path)

    def test_a_hash_that_is_not_listed_is_not_checked(self, fake: FakeModelScope) -> None:
        fake.listed["pytorch_model.pt"] = {"Sha256": None}
        assert (resolve(ID) / "pytorch_model.pt").is_file()

    def test_a_body_that_breaks_off(self, fake: FakeModelScope, tmp_path: Path) -> None:
        fake.cut = True
        with pytest.raises(ModelNotFoundError, match=r"cannot be downloaded .*peer closed"):
            resolve(ID)
        assert not leftovers(tmp_path)

    @pytest.mark.parametrize(
        "listing",
        [b"<html>", b"[]", b'{"Data": null}', b'{"Data": {"Files": [3]}}', b"[" * 100_000],
    )
    def test_a_listing_that_is_none(self, fake: FakeModelScope, listing: bytes) -> None:
        fake.listing = listing
        with pytest.raises(ModelNotFoundError, match="file list that cannot be read"):
            resolve(ID)

    def test_a_listing_without_end(self, fake: FakeModelScope, monkeypatch: Any) -> None:
        monkeypatch.setattr(hub, "_MAX_LISTING", 100)
        with pytest.raises(ModelNotFoundError, match="more than 100 bytes"):
            resolve(ID)

    @pytest.mark.parametrize("status", [403, 500])
    def test_a_server_that_refuses(self, fake: FakeModelScope, status: int) -> None:
        fake.status = status
        with pytest.raises(ModelNotFoundError, match=f"cannot be downloaded from .*{status}"):
            resolve(ID)

    def test_an_unknown_model(self, fake: FakeModelScope) -> None:
        with pytest.raises(ModelNotFoundError, match="'iic/other' does not exist on http://127"):
            resolve("iic/other")

    def test_redirects_must_be_encrypted(self, fake: FakeModelScope) -> None:
        fake.redirect = "http://elsewhere.example/"
        with pytest.raises(ModelNotFoundError, match=r"without encryption from elsewhere\.example"):
            resolve(ID)

    def test_a_server_that_is_down(self, fake: FakeModelScope, monkeypatch: Any) -> None:
        fake.server.server_close()
        with pytest.raises(ModelNotFoundError, match=f"'{ID}' cannot be downloaded from .*by hand"):
            resolve(ID)

    def test_a_cache_that_fills_up(
        self, fake: FakeModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(ModelNotFoundError, match=r"cannot be stored in .*No space left"):
            resolve(ID)
        assert not leftovers(tmp_path)

    def test_a_cache_that_cannot_be_written(self, fake: FakeModelScope, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(ModelNotFoundError, match=r"cannot be stored in .*set PASSREID_CACHE"):
            resolve(ID)


def test_redirects_to_https_are_followed_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requested.append(str(request.url))
        if request.url.path.endswith("/files"):
            entry = {"Path": "model.safetensors", "Size": 4}
            return httpx.Response(200, json={"Data": {"Files": [entry]}})
        if request.url.host == "modelscope.cn" and "loop" not in request.url.path:
            return httpx.Response(302, headers={"Location": "https://cdn.example/w?key=1"})
        if "loop" in request.url.path:
            return httpx.Response(302, headers={"Location": "/loop"})
        return httpx.Response(200, content=b"data")

    real = httpx.Client

    def client(**options: Any) -> httpx.Client:
        return real(transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(httpx, "Client", client)
    assert (resolve(ID) / "model.safetensors").read_bytes() == b"data"
    assert requested[-1] == "https://cdn.example/w?key=1"
    with pytest.raises(ModelNotFoundError, match="maximum allowed redirects"):
        resolve("damo/loop")


@pytest.mark.parametrize("variable", ["PASSREID_OFFLINE", "HF_HUB_OFFLINE", None])
def test_offline_never_asks(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelNotFoundError, match=f"'{ID}' is not in the cache.*by hand"):
        resolve(ID, offline=None if variable else True)


def test_a_server_without_encryption_must_be_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSREID_MODELSCOPE_URL", "http://example.org")
    with pytest.raises(ModelNotFoundError, match=r"without encryption from example\.org"):
        resolve(ID)


def test_cache_follows_the_desktop_standard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PASSREID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg" / "passreid" / "modelscope" / "iic" / "m@master"
    folder.mkdir(parents=True)
    assert resolve("iic/m") == folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "passreid" / "modelscope" / "iic" / "m@master"
    folder.mkdir(parents=True)
    assert resolve("iic/m") == folder


class TestHuggingFace:
    """`huggingface_hub` is replaced by what it would answer."""

    files: ClassVar = {
        "owner/model": ["model.safetensors", "pytorch_model.bin", "config.json", "model.int8.onnx"],
        "damo/model": ["model.safetensors", "model.onnx", "train.py"],
        "old/model": ["weights.pth", "config.json", "train.py"],
        "older/model": [
            "pytorch_model.bin",
            "training_args.bin",
            "optimizer.pt",
            "rng_state_0.pth",
        ],
        "many/models": [
            "README.md",
            "small/model.pth",
            "small/config.json",
            "small/optimizer.pt",
            "base/model.pth",
            "base/model.safetensors",
        ],
    }

    @pytest.fixture
    def calls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, **options: Any) -> str:
            made.append({"repo_id": repo_id, **options})
            if repo_id == "no/such":
                raise OSError("404 Client Error.\nRepository Not Found")
            (tmp_path / "snapshot").mkdir(exist_ok=True)
            for name in self.files[repo_id]:
                if any(fnmatch(name, pattern) for pattern in options.get("ignore_patterns", ())):
                    continue
                if any(fnmatch(name, pattern) for pattern in options["allow_patterns"]):
                    (tmp_path / "snapshot" / name).parent.mkdir(exist_ok=True)
                    (tmp_path / "snapshot" / name).touch()
            return str(tmp_path / "snapshot")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return made

    def test_ids(self, calls: list[dict[str, Any]], tmp_path: Path) -> None:
        assert resolve("hf:damo/model@main") == tmp_path / "snapshot"
        assert resolve("owner/model", offline=True) == tmp_path / "snapshot"
        first, second = calls
        assert (first["repo_id"], first["revision"]) == ("damo/model", "main")
        assert first["allow_patterns"] == [
            "*.safetensors",
            "*.json",
            "model.onnx",
            "attention.onnx",
        ]
        assert first["cache_dir"] == tmp_path / "cache" / "huggingface"
        assert (second["revision"], second["local_files_only"]) == (None, True)

    @pytest.mark.parametrize(
        ("name", "fetched"),
        [
            ("owner/model", {"model.safetensors", "config.json"}),
            ("old/model", {"weights.pth", "config.json"}),
            ("older/model", {"pytorch_model.bin"}),
        ],
    )
    def test_pickles_are_fetched_only_where_there_is_nothing_else(
        self, calls: list[Any], name: str, fetched: set[str]
    ) -> None:
        assert {file.name for file in resolve(name).iterdir()} == fetched

    @pytest.mark.parametrize("prefix", ["", "hf:"])
    def test_one_file_of_a_folder_is_fetched_alone(
        self, calls: list[Any], tmp_path: Path, prefix: str
    ) -> None:
        found = resolve(f"{prefix}many/models/small/model.pth@v1")
        assert found == tmp_path / "snapshot" / "small" / "model.pth"
        assert leftovers(tmp_path / "snapshot") == ["small/config.json", "small/model.pth"]
        assert calls[0]["revision"] == "v1"

    def test_a_repository_of_folders_asks_for_one_file(
        self, calls: list[Any], tmp_path: Path
    ) -> None:
        with pytest.raises(
            ModelNotFoundError, match=r"no weight file at its top level .*folder/file"
        ):
            resolve("many/models")
        assert not leftovers(tmp_path / "snapshot")
        with pytest.raises(ModelNotFoundError, match=r"has no small/other\.pth on Hugging Face"):
            resolve("many/models/small/other.pth")

    def test_a_file_of_another_precision_is_fetched_when_it_is_asked_for(
        self, calls: list[Any]
    ) -> None:
        with pytest.raises(ConfigError, match=r"model\.json: cannot be read"):
            load("owner/model", precision="int8", backend="onnx")
        assert calls[0]["allow_patterns"][-1:] == ["model.int8.onnx"]
        with pytest.raises(PassreidError):
            load("owner/model", precision="int8")
        assert calls[1]["allow_patterns"][-3:] == [
            "model.int8.onnx",
            "model.int8.xml",
            "model.int8.bin",
        ]

    def test_its_own_cache_by_default(self, calls: list[Any], monkeypatch: Any) -> None:
        monkeypatch.delenv("PASSREID_CACHE")
        resolve("owner/model")
        assert calls[0]["cache_dir"] is None

    def test_a_name_it_does_not_have(self, calls: list[Any]) -> None:
        with pytest.raises(
            ModelNotFoundError, match=r"'no/such': no local path.*\(404 Client Error"
        ):
            resolve("no/such")

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        with pytest.raises(MissingExtraError, match=r"'owner/model': no local path.*\[hub\]'"):
            resolve("owner/model")
