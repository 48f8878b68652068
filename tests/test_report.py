"""The report of all benchmarks: both documents, what failed, and its end by Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import document, plots, report, results
from benchmarks.document import Section
from benchmarks.report import Benchmark
from benchmarks.results import Plot, Table
from tests.support import ROOT, SECONDS, encoded, picture
from tests.test_load import server as server  # a small one that colours

CURVE = Table("Clients", ["clients", "1/s"], [[1, 5.0], [2, None], [4, 7.5]], "So `it` is.")
BARS = Table("Engines", ["engine", "a, ms", "b, ms"], [["eager", 2.5, 1], ["<fast>", 1.0, None]])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    return folder


def test_benchmarks_are_run_and_told_in_both_documents_with_the_one_that_failed(
    server: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server}/predictions/colorize"
    there = ["--pictures", str(pictures), "--users", "1", "--seconds", "1"]
    gone = ["closed", "--url", "http://127.0.0.1:9/predictions/colorize"]
    runs = (
        Benchmark("absent", "nothing_of_that_name"),
        Benchmark("gone", "load", gone),
        Benchmark("load", "load", ["closed", "--url", url, *there]),
    )
    monkeypatch.setattr(report, "BENCHMARKS", runs)
    out = tmp_path / "out"
    assert report.main(["--quick", "--out", str(out)]) == 1
    _, _, (table,) = results.load(out / "load.json")
    markdown, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    for words in ("No module named", "start it with make serve", "(exit code 2)", "no figure"):
        assert words in markdown
        assert words in page
    assert table.markdown() in markdown
    assert f"python -m benchmarks.load closed --url {url}" in markdown
    assert "![Users who wait for their reply](load-1.svg)" in markdown
    assert (out / "load-1.svg").read_text().count("<svg") == 1
    assert page.count("data:image/svg+xml;base64,") == 1
    assert page.count("src=") == 1  # the page needs nothing beside it
    assert "<link" not in page
    assert {"absent.log", "gone.log", "load.log"} <= {path.name for path in out.iterdir()}


def test_ctrl_c_ends_the_benchmark_that_runs_and_keeps_the_others(
    server: str, pictures: Path, tmp_path: Path
) -> None:
    arguments = ["closed", "--url", f"{server}/predictions/colorize", "--users", "1"]
    arguments += ["--pictures", str(pictures), "--seconds"]
    script = (
        "import sys; from benchmarks import report; from benchmarks.report import Benchmark\n"
        f"report.BENCHMARKS = (Benchmark('short', 'load', {[*arguments, '1']}),"
        f" Benchmark('long', 'load', {[*arguments, '600']}))\n"
        f"sys.exit(report.main(['--out', {str(tmp_path / 'out')!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said = ""
    while "1 users: " not in said.partition("] long")[2]:
        said += process.stdout.readline()
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 130
    assert "keeps what was measured" in said
    assert "Traceback" not in said
    assert not child.is_running()
    assert "## short" in (tmp_path / "out" / "report.md").read_text()


def test_one_that_hangs_is_stopped_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LIMIT", 0.5)
    start = time.monotonic()
    code, late = report.carry_out(
        [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log"
    )
    assert late
    assert code != 0
    assert time.monotonic() - start < SECONDS


def test_numbers_make_curves_and_words_make_bars() -> None:
    with_plot = Table(**{**vars(CURVE), "plot": Plot("clients", ["1/s"], "1/s", log=True)})
    assert "<svg" in (plots.draw(with_plot) or "")
    bars = Table(**{**vars(BARS), "plot": Plot("engine", ["a, ms", "b, ms"], "ms")})
    assert "<svg" in (plots.draw(bars) or "")
    assert plots.draw(bars) == plots.draw(bars)  # no date, no chance
    assert plots.draw(CURVE) is None
    with pytest.raises(ValueError, match="no column 'ms' to draw"):
        plots.draw(Table(**{**vars(CURVE), "plot": Plot("clients", ["ms"], "ms")}))


def test_what_looks_like_html_stays_words() -> None:
    section = Section("name", "About <it>.", "python -m it", 1.0, [CURVE, BARS], "a < b")
    page = document.page("Title", "Of **bold** `code`.", {"CPU": "<fast>"}, [section])
    for words in ("About &lt;it&gt;.", "a &lt; b", "<strong>bold</strong>", "<code>it</code>"):
        assert words in page
    assert "<fast>" not in page
    assert '<td class="number">7.5</td>' in page.replace("class=number", 'class="number"')


def test_archives_that_are_not_built_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "STORE", tmp_path)
    assert report.main(["--only", "batches", "--out", str(tmp_path / "out")]) == 1
    assert "run `make archives` to build it" in capsys.readouterr().err
