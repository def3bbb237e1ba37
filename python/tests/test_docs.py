"""The code of README.md and docs/*.md runs as it stands.

Each page has a folder of its own. First the blocks with a file name are written there, then the
page's Python blocks run in one process, then the commands of its console blocks, in order. The
lines below a command are its expected output, in which `...` stands for anything.

A comment before a block says how to treat it:

    <!-- docs: file=train.py -->           write the block to this file
    <!-- docs: skip=REASON -->             do not run it; the reasons are counted and printed
    <!-- docs: output varies -->           run the commands, but do not compare what they print

and `<!-- docs: run ... -->` holds Python that a reader does not see, such as an assertion.
"""

from __future__ import annotations

import collections
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from autoep.config.training import read_config

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
RUN = ("python", "console")

_BLOCK = re.compile(
    r"^<!-- docs: run\n(?P<hidden>.*?)^-->$"
    r"|(?:^<!-- docs: (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        language: The language that its fence names.
        text: The block.
        file: The file that it is; empty for none.
        skip: Why it does not run; empty if it does.
        output_varies: Whether its output is left uncompared.
    """

    language: str
    text: str
    file: str = ""
    skip: str = ""
    output_varies: bool = False


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [_block(match) for match in _BLOCK.finditer(text)]


def _block(match: re.Match[str]) -> Block:
    if match["hidden"] is not None:
        return Block("python", match["hidden"])
    mark = match["mark"] or ""
    name, _, value = mark.partition("=")
    if name in ("file", "skip") and value:
        return Block(match["language"], match["text"], **{name: value})
    if mark not in ("", "output varies"):
        raise ValueError(f"unknown comment: docs: {mark}")
    return Block(match["language"], match["text"], output_varies=bool(mark))


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output below it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = re.sub(r"\\\n", "", part).partition("\n")
        yield command, output


def run(command: list[str], folder: Path) -> str:
    """Runs a command as a reader would, on one thread; returns what it prints."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, _python_path()))),
        "OMP_NUM_THREADS": "1",
        "AUTOEP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"[-6000:]
    return result.stdout


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def run_page(blocks: list[Block], folder: Path) -> None:
    """Runs a page's blocks in a folder."""
    ours = [block for block in blocks if not block.skip]
    for block in ours:
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    scripts = [b.text for b in ours if b.language == "python" and not b.file]
    if scripts:
        page = folder / "python_blocks.py"
        page.write_text("\n".join(scripts))
        run([sys.executable, page.name], folder)
    for block in ours:
        if block.language == "console":
            for command, expected in commands_of(block):
                _run_command(command, "" if block.output_varies else expected, folder)


def _run_command(command: str, expected: str, folder: Path) -> None:
    if command.startswith("mpirun ") and shutil.which("mpirun") is None:
        return
    found = run(["bash", "-c", command], folder)
    rules = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if expected and not doctest.OutputChecker().check_output(expected, found, rules):
        raise AssertionError(f"{command}\nexpected:\n{expected}\nprinted:\n{found}")


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """The run of each selected page; two at a time, as each keeps about one core busy."""
    items = [item for item in request.session.items if hasattr(item, "callspec")]
    chosen = [i.callspec.params["page"] for i in items if "runs" in i.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {
            page: pool.submit(
                run_page,
                blocks_of(page.read_text(encoding="utf-8")),
                tmp_path_factory.mktemp(page.stem),
            )
            for page in chosen
        }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(runs: dict[Path, Future[None]], page: Path) -> None:
    runs[page].result()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_configurations_of_a_page_are_valid(page: Path) -> None:
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "json" and not block.skip:
            read_config(json.loads(block.text))


def test_blocks_that_do_not_run_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    everything = [b for page in PAGES for b in blocks_of(page.read_text(encoding="utf-8"))]
    ours = [block for block in everything if block.language in RUN]
    reasons = collections.Counter(block.skip for block in ours if block.skip)
    with capsys.disabled():
        print(f"\ndocs: {len(ours)} blocks, {sum(reasons.values())} of them not run:")
        for reason, count in reasons.most_common():
            print(f"  {count}: {reason}")
    assert len(ours) - sum(reasons.values()) >= 10, "the search finds blocks"


def test_every_fence_is_found() -> None:
    """A fence that the pattern misses would be a block that nobody runs."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = [match for match in _BLOCK.finditer(text) if match["hidden"] is None]
        assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), page.name
        assert text.count("<!-- docs:") == sum(
            1 for match in _BLOCK.finditer(text) if match["hidden"] or match["mark"]
        ), page.name


def test_the_configuration_page_is_current() -> None:
    script = CHECKOUT / "docs" / "scripts" / "configuration.py"
    run([sys.executable, str(script), "--check"], CHECKOUT)


_FENCE = "```"


@pytest.mark.parametrize(
    "page",
    [
        f"{_FENCE}python\nraise SystemExit(3)\n{_FENCE}\n",
        f"{_FENCE}console\n$ echo one\ntwo\n{_FENCE}\n",
        f"{_FENCE}console\n$ false\n{_FENCE}\n",
        "<!-- docs: run\nassert 1 == 2\n-->\n",
    ],
)
def test_a_broken_block_fails(page: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_page(blocks_of(page), tmp_path)


def test_comments_say_what_becomes_of_a_block(tmp_path: Path) -> None:
    page = (
        f"<!-- docs: file=a/b.txt -->\n{_FENCE}text\nwords\n{_FENCE}\n"
        f"<!-- docs: skip=it fails -->\n{_FENCE}python\nraise SystemExit(1)\n{_FENCE}\n"
        f"<!-- docs: output varies -->\n{_FENCE}console\n$ date\nnever\n{_FENCE}\n"
        f"{_FENCE}console\n$ cat \\\n    a/b.txt\nwo...\n{_FENCE}\n"
    )
    run_page(blocks_of(page), tmp_path)
    assert [block.skip for block in blocks_of(page)] == ["", "it fails", "", ""]
    with pytest.raises(ValueError, match="unknown comment: docs: slip=it"):
        blocks_of(f"<!-- docs: slip=it -->\n{_FENCE}python\n{_FENCE}\n")
