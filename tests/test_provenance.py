"""The record of how a file was coloured: in every format, readable by ExifTool, the same again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from colorizer import Colorizer, __version__, encode, provenance
from colorizer.commands import cli
from colorizer.metadata import Metadata
from colorizer.options import NAMES, Options
from tests.pictures import ASTRONAUT, file_of
from tests.support import Capture, encoded, picture

BODY = encoded(picture(40, 60), "JPEG")
OTHER = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/"
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" dc:format="image/tiff"
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/print">
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


@pytest.fixture(scope="module")
def model(archives: Path) -> Path:
    return archives / "colorize-classes.mar"


@pytest.fixture(scope="module")
def colorizer(model: Path) -> Colorizer:
    return Colorizer(model, "cpu")


@pytest.mark.parametrize("format", encode.CONTENT_TYPES)
def test_the_record_says_what_made_the_file_and_the_same_bytes_come_again(
    colorizer: Colorizer, format: str
) -> None:
    options: dict[str, Any] = {"format": format, "provenance": "yes", "chroma": 1.25, "seed": 7}
    marks = [{"x": 0.41, "y": 0.63, "color": "#7a2f2f"}, {"points": [[0, 1]], "neutral": True}]
    options["hints"] = json.dumps(marks)
    body = colorizer.colorize(BODY, **options)
    told = provenance.read(body)
    assert told["SourceSHA256"] == hashlib.sha256(BODY).hexdigest()
    assert told["ModelSHA256"] == colorizer.pipeline.graph.checkpoint
    assert told["GraphSHA256"] == colorizer.pipeline.graph.sha256
    assert told["Software"] == f"colorizer {__version__}"
    assert told["DigitalSourceType"] == provenance.COLOURED
    chosen = json.loads(told["Options"])
    assert set(chosen) == set(NAMES) - {"likely"}
    assert chosen["decoding"] == colorizer.pipeline.graph.recipe.decoding
    texts = {name: json.dumps(one) if name == "hints" else str(one) for name, one in chosen.items()}
    again = Options.parse(texts)
    assert colorizer.pipeline.colorize(BODY, again).body != colorizer.colorize(BODY, format=format)
    assert provenance.read(colorizer.pipeline.colorize(BODY, again).body) == told
    assert colorizer.colorize(BODY, **options) == body
    assert not provenance.read(colorizer.colorize(BODY, format=format))


@pytest.mark.parametrize("format", encode.CONTENT_TYPES)
@pytest.mark.parametrize("keep", ["keep", "strip"])
def test_exiftool_reads_the_record_and_the_photographs_own_xmp(
    colorizer: Colorizer, format: str, keep: str, tmp_path: Path
) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    source = file_of(ASTRONAUT, "JPEG", xmp=OTHER)
    path = tmp_path / f"a.{format}"
    path.write_bytes(colorizer.colorize(source, format=format, provenance="yes", metadata=keep))
    done = subprocess.run(["exiftool", "-n", "-j", "-G1", "-a", path], capture_output=True)
    (found,) = json.loads(done.stdout)
    assert found["XMP-iptcExt:DigitalSourceType"] == provenance.COLOURED
    assert found["XMP-colorizer:SourceSHA256"] == hashlib.sha256(source).hexdigest()
    assert json.loads(found["XMP-colorizer:Options"])["metadata"] == keep
    assert found.get("XMP-dc:Format") == ("image/tiff" if keep == "keep" else None)
    assert "ExifTool:Warning" not in found


def test_each_variant_records_its_own_seed(colorizer: Colorizer) -> None:
    told = [provenance.read(one) for one in colorizer.variants(BODY, 2, seed=5, provenance="yes")]
    assert [json.loads(one["Options"])["seed"] for one in told] == [5, 6]


def test_a_record_replaces_an_older_one_and_only_that() -> None:
    told = dict.fromkeys(("Software", "SourceSHA256"), "old") | {"DigitalSourceType": "a"}
    once = provenance.embed(Metadata(xmp=OTHER), told)
    twice = provenance.embed(once, told | {"Software": '<new> & "it\'s"'})
    assert twice.xmp.count(b"DigitalSourceType>") == 4  # ours and IPTC's, each opened and closed
    assert b"digitalsourcetype/print" not in twice.xmp
    assert b'dc:format="image/tiff"' in twice.xmp
    assert provenance.read(twice.xmp)["Software"] == '<new> & "it\'s"'
    long = provenance.embed(
        Metadata(xmp=OTHER.replace(b"</rdf:RDF>", b" " * 66_000 + b"</rdf:RDF>")), told
    )
    assert len(long.xmp) < 2000
    assert provenance.read(long.xmp) == told


def test_a_map_of_uncertainty_is_not_called_a_coloured_photograph(colorizer: Colorizer) -> None:
    told = provenance.read(colorizer.colorize(BODY, show="uncertainty", provenance="yes"))
    assert told["DigitalSourceType"].endswith("/dataDrivenMedia")


def test_explain_prints_the_record(colorizer: Colorizer, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(colorizer.colorize(BODY, format="webp", provenance="yes"))
    assert cli.main(["explain", str(path)]) == 0
    said = capsys.readouterr().out
    assert "coloured by machine" in said
    assert hashlib.sha256(BODY).hexdigest() in said
    assert cli.main(["explain", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["Options"]["format"] == "webp"
    assert told["SourceSHA256"] == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [(BODY, 1, "holds no record"), (b"", 1, "holds no record"), (None, 2, "No such file")],
)
def test_explain_says_if_there_is_no_record(
    body: bytes | None, code: int, said: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "a.jpg"
    if body is not None:
        path.write_bytes(body)
    assert cli.main(["explain", str(path)]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_record_survives_another_program(colorizer: Colorizer, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(colorizer.colorize(BODY, format="tiff", provenance="yes"))
    told = provenance.read(path.read_bytes())
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    subprocess.run(["exiftool", "-q", "-Artist=E. S. Curtis", "-XMP-dc:Title=a", path], check=True)
    assert provenance.read(path.read_bytes()) == told
    with Image.open(path) as im:
        assert im.getexif()[315] == "E. S. Curtis"
