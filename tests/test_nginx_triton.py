"""deploy/nginx-triton.conf in front of the real Triton, whose other APIs take a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from colorizer.commands.client import Refused, Server
from colorizer.errors import RequestError
from colorizer.pipeline import Pipeline
from colorizer.recipe import HEADS
from export import serving, triton
from tests.support import (
    ROOT,
    Handler,
    Patch,
    Reply,
    Sharing,
    Weights,
    any_server,
    curl,
    encoded,
    opened,
    picture,
    running_triton,
)
from tests.test_deploy import RESTRICTED
from tests.test_nginx import TOKEN, nginx

# Where packages put njs; NJS names another place.
MODULE = os.environ.get("NJS", "/usr/lib/nginx/modules/ngx_http_js_module.so")
PHOTO = encoded(picture(90, 120), "JPEG")
KEY = "a-key-of-the-operators"

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on this machine"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl for a certificate"),
]
with_njs = pytest.mark.skipif(not Path(MODULE).exists(), reason="nginx has no njs here")


class Doors(NamedTuple):
    """Addresses: of nginx, and of Triton behind it."""

    front: str
    behind: str
    certificate: Path


@pytest.fixture(scope="module")
def doors(
    weights: Weights, staged_once: Sharing, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doors]:
    """nginx that wants a token, in front of Triton with a short queue."""
    folder = tmp_path_factory.mktemp("nginx-triton")
    text = serving.SETTINGS.read_text().replace("\nqueue: 32", "\nqueue: 2")
    (folder / "serving.yaml").write_text(text.replace("\nbatch: 8", "\nbatch: 1"))
    with staged_once():
        models = triton.repository(
            [weights(head) for head in HEADS],
            folder / "models",
            settings=folder / "serving.yaml",
            engines=["onnx"],
        )
    options = [option.replace("$(ADMIN_KEY)", KEY) for option in RESTRICTED]
    changes = {
        "default 1;\n        # ": "default 0;\n        ",
        "modules/ngx_http_js_module.so": MODULE,
    }
    if not Path(MODULE).exists():  # what the file itself tells those to do who have none
        lines = (ROOT / "deploy" / "nginx-triton.conf").read_text().splitlines(keepends=True)
        begins = ("load_module ", "js_import ", "js_content ")
        gone = [line for line in lines if line.strip().startswith(begins)]
        assert len(gone) == len(begins)
        changes = {k: v for k, v in changes.items() if k != "modules/ngx_http_js_module.so"}
        changes |= dict.fromkeys(gone, "")
    with running_triton(models, folder, *options) as server:
        changes |= {"server 127.0.0.1:8000": f"server 127.0.0.1:{server.port}"}
        with nginx(folder, "nginx-triton.conf", server.port, changes) as url:
            yield Doors(url, server.url, folder / "cert.pem")


@pytest.fixture(autouse=True)
def trusted(doors: Doors, monkeypatch: Patch) -> None:
    """The certificate is one that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(doors.certificate))


@pytest.fixture(scope="module")
def library(weights: Weights, repository: Path) -> dict[str, Pipeline]:
    return {name: Pipeline.load(repository / name / "1") for name in triton.NAMES.values()}


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js, which knows the language too")
def test_the_script_is_javascript_where_there_is_no_njs_to_run_it() -> None:
    script = (ROOT / "deploy" / "triton.js").read_text()
    command = ["node", "--input-type=module", "--check"]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def ask(doors: Doors, *arguments: str, body: bytes | None = None, token: str = TOKEN) -> Reply:
    """Run curl with a token; a body is posted, if no other way is named."""
    trust = ["--cacert", str(doors.certificate)]
    trust += ["-H", f"Authorization: Bearer {token}"] if token else []
    trust += ["--data-binary", "@-"] if body is not None and "-T" not in arguments else []
    return curl(*trust, *arguments, body=body)


@with_njs
@pytest.mark.parametrize(
    ("model", "options", "kind"),
    [
        ("colorize", {}, "image/jpeg"),
        ("colorize/1", {"format": "png"}, "image/png"),
        ("colorize", {"format": "webp", "chroma": "1.5"}, "image/webp"),
        ("colorize", {"format": "tiff"}, "image/tiff"),
        ("colorize-classes", {"variants": "2"}, "application/zip"),
        ("colorize-classes", {"likely": "0.5,0.5"}, "application/json"),
    ],
)
def test_curl_gets_the_librarys_bytes_and_nothing_before_them(
    doors: Doors, library: dict[str, Pipeline], model: str, options: dict[str, str], kind: str
) -> None:
    headers = [part for k, v in options.items() for part in ("-H", f"X-Colorize-{k.title()}: {v}")]
    url = f"{doors.front}/predictions/{model}"
    answer = ask(doors, "-T", "-", *headers, url, body=PHOTO)
    expected = library[model.partition("/")[0]].colorize(PHOTO, options).body
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == expected


@with_njs
def test_a_client_that_accepts_gzip_gets_the_picture_as_it_is(
    doors: Doors, library: dict[str, Pipeline]
) -> None:
    url = f"{doors.front}/predictions/colorize"
    answer = ask(doors, "-T", "-", "-H", "Accept-Encoding: gzip", url, body=PHOTO)
    assert "content-encoding" not in answer.headers
    assert answer.body == library["colorize"].colorize(PHOTO).body


@with_njs
def test_what_a_newer_triton_says_of_a_picture_becomes_torchserves_headers(
    doors: Doors, tmp_path: Path
) -> None:
    line = b'{"parameters":{"graph":"abc","server_timing":"read;dur=1.0"}}'

    class Newer(Handler):
        """Triton from 25.02 on, as far as nginx sees it."""

        def do_POST(self) -> None:
            self.body()
            self.answer(200, line + PHOTO, Inference_Header_Content_Length=str(len(line)))

    with any_server(Newer) as url:
        port = int(url.rpartition(":")[2])
        changes = {
            "server 127.0.0.1:8000": f"server 127.0.0.1:{port}",
            "modules/ngx_http_js_module.so": MODULE,
        }
        with nginx(tmp_path, "nginx-triton.conf", port, changes) as front:
            near = Doors(front, url, tmp_path / "cert.pem")
            answer = ask(near, "-T", "-", f"{front}/predictions/colorize", body=PHOTO)
    assert (answer.status, answer.body) == (200, PHOTO)
    assert answer.headers["x-colorize-graph"] == "abc"
    assert answer.headers["server-timing"] == "read;dur=1.0"


@with_njs
@pytest.mark.parametrize(
    ("path", "body", "header", "status", "kind", "said"),
    [
        ("colorize", b"text", "", 415, "not_a_picture", "convert the picture"),
        ("colorize", PHOTO[:300], "", 400, "bad_picture", "broken or cut short"),
        ("colorize", b"", "", 400, "bad_picture", "is empty"),
        ("colorize", PHOTO, "X-Colorize-Chroma: 9", 422, "bad_option", "chroma is '9'"),
        ("none", PHOTO, "", 404, "server_error", "unknown model: 'none'"),
        ("colorize/7", PHOTO, "", 404, "server_error", "version 7"),
        ("colorize?format=png", PHOTO, "", 400, "bad_request", "as headers"),
        ("colorize/../../v2/repository/index", PHOTO, "", 404, "", ""),
        ("a%2fb", PHOTO, "", 404, "bad_request", "No such page"),
    ],
)
def test_curl_is_told_what_was_wrong_as_torchserve_tells_it(
    doors: Doors, path: str, body: bytes, header: str, status: int, kind: str, said: str
) -> None:
    more = ["-H", header] if header else []
    url = f"{doors.front}/predictions/{path}"
    answer = ask(doors, "--path-as-is", "-T", "-", *more, url, body=body)
    assert answer.status == status
    if kind:
        assert answer.headers["content-type"] == "application/json"
        told = json.loads(answer.body)
        assert (told["code"], told["type"]) == (status, kind)
        assert said in told["message"]


@with_njs
def test_a_picture_as_large_as_the_limit_passes(doors: Doors) -> None:
    url = f"{doors.front}/predictions/colorize"
    large = encoded(picture(2400, 3200), "BMP")
    answer = ask(doors, "-T", "-", "-H", "X-Colorize-Format: png", url, body=large)
    assert opened(answer.body).size == (3200, 2400)
    assert ask(doors, "-T", "-", url, body=bytes(34 * 2**20)).status == 413


@pytest.mark.parametrize("path", ["/", pytest.param("/predictions/colorize", marks=with_njs)])
def test_the_commands_client_passes_with_a_token_and_not_without(
    doors: Doors, path: str, library: dict[str, Pipeline], monkeypatch: Patch
) -> None:
    server = Server(doors.front + path, token=TOKEN)
    assert server.colorize(PHOTO, format="png") == (
        library["colorize"].colorize(PHOTO, {"format": "png"}).body
    )
    with pytest.raises(RequestError) as here:
        library["colorize"].colorize(b"text")
    with pytest.raises(Refused) as there:
        server.colorize(b"text")
    assert str(there.value) == f"415: {here.value}"
    with pytest.raises(Refused, match="401"):
        Server(doors.front + path, token="other").colorize(PHOTO)


def test_who_has_no_token_learns_only_that_one_is_wanted(doors: Doors) -> None:
    for path in ("/v2/models/colorize/infer", "/v2", "/predictions/colorize", "/nothing"):
        for token in ("", "other"):
            answer = ask(doors, f"{doors.front}{path}", body=PHOTO, token=token)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_what_is_not_inference_is_out_of_reach(doors: Doors) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/colorize/ready"):
        assert ask(doors, f"{doors.front}{path}").status == 200
    for path in ("repository/index", "models/stats", "models/colorize/config", "logging", "../raw"):
        assert ask(doors, f"{doors.front}/v2/{path}").status == 404
    assert ask(doors, f"{doors.front}/raw/v2").status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("repository/index", b"{}"),
        ("repository/models/colorize/unload", b"{}"),
        ("models/colorize/config", None),
        ("models/colorize/stats", None),
        ("systemsharedmemory/region/a/register", b'{"key": "/a", "offset": 0, "byte_size": 8}'),
        ("systemsharedmemory/status", None),
        ("logging", b'{"log_verbose_level": 1}'),
        ("trace/setting", b'{"trace_level": ["OFF"]}'),
    ],
)
def test_behind_the_proxy_too_it_takes_the_operators_key(
    doors: Doors, path: str, body: bytes | None
) -> None:
    url = f"{doors.behind}/v2/{path}"
    for key in ("", "other"):
        refused = ask(doors, "-H", f"admin-key: {key}", url, body=body)
        assert (refused.status, b"restricted" in refused.body) == (403, True)
    assert ask(doors, "-H", f"admin-key: {KEY}", url, body=body).status != 403


def test_the_same_over_grpc(doors: Doors) -> None:
    module: Any = pytest.importorskip("tritonclient.grpc")
    host, _, port = doors.behind.removeprefix("http://").partition(":")
    with module.InferenceServerClient(f"{host}:{int(port) + 1}") as client:
        assert client.is_server_ready()
        with pytest.raises(Exception, match="restricted"):
            client.get_model_repository_index()
        allowed = {"triton-grpc-protocol-admin-key": KEY}
        assert client.get_model_repository_index(headers=allowed).models


def test_who_is_refused_is_told_when_to_come_back(doors: Doors) -> None:
    large = encoded(picture(2400, 3200), "JPEG")
    url = f"{doors.front}/v2/models/colorize/infer"
    raw = ("-H", "Inference-Header-Content-Length: 0")
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: ask(doors, *raw, url, body=large), range(10)))
    seen = Counter((answer.status, answer.headers.get("retry-after")) for answer in found)
    assert set(seen) == {(200, None), (503, "5")}


def test_pages_of_the_named_origins_alone_may_call(doors: Doors) -> None:
    url = f"{doors.front}/v2/models/colorize/infer"
    for origin, allowed in (("https://photos.example.org", True), ("https://example.org", False)):
        preflight = ask(doors, "-X", "OPTIONS", "-H", f"Origin: {origin}", url, token="")
        assert preflight.status == 204
        names = {"access-control-allow-origin", "access-control-allow-headers"}
        assert (names <= {name.lower() for name in preflight.headers}) == allowed
