"""Run the Autobahn test suite, some 500 cases of RFC 6455 and RFC 7692, against an echo view.

The suite runs on Python 2.7 only. That is looked for as ``python2.7``, or where PYTHON2 says; the
suite is installed, once, into an environment of its own. The report, in HTML, is left in
test-artifacts/autobahn.
"""

# ruff: noqa: T201 -- a script prints

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENT = ROOT / ".venv-autobahn"
REPORT = ROOT / "test-artifacts" / "autobahn"
SUITE = "autobahntestsuite==25.10.1"
#: The last releases of virtualenv that make environments for Python 2.7.
VIRTUALENV = "virtualenv<20.22"
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


def find_python2() -> str:
    """Return the path of a Python 2.7, or end with a message."""
    command = os.environ.get("PYTHON2", "python2.7")
    probe = [
        command,
        "-c",
        "import sys; assert sys.version_info[:2] == (2, 7); print(sys.executable)",
    ]
    # A pyenv shim runs only when told which version it stands for: hence the second try.
    for environment in (os.environ, {**os.environ, "PYENV_VERSION": "2.7"}):
        try:
            result = subprocess.run(probe, env=environment, capture_output=True, text=True)
        except OSError:
            break
        if result.returncode == 0:
            return result.stdout.strip()
    sys.exit(
        f"The Autobahn test suite needs Python 2.7, and {command!r} does not run as one."
        " Install it, or set PYTHON2 to its path."
    )


def install() -> Path:
    """Return the suite's command; install it first if it is not there."""
    scripts = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
    installed = ENVIRONMENT / ".installed"
    if not installed.exists() or installed.read_text() != SUITE:
        python2 = find_python2()
        with tempfile.TemporaryDirectory() as tools:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools]
            subprocess.run([*pip, VIRTUALENV], check=True)
            subprocess.run(
                [sys.executable, "-m", "virtualenv", "--quiet", "--clear", "--python", python2,
                 str(ENVIRONMENT)],
                env={**os.environ, "PYTHONPATH": tools},
                check=True,
            )  # fmt: skip
        subprocess.run([scripts / "pip", "install", "--quiet", SUITE], check=True)
        installed.write_text(SUITE)
    return scripts / "wstest"


@contextmanager
def server() -> Iterator[str]:
    """Run the server for a while; yield its WebSocket address."""
    process = subprocess.Popen(
        [sys.executable, HERE / "server.py"],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"Running on http(://\S+)", line):
                yield f"ws{match[1]}"
                break
        else:
            sys.exit("The server did not start.")
    finally:
        process.terminate()
        process.communicate()


def main() -> int:
    """Run the suite; return 0 if all cases passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="cases to run, such as 1.* or 6.4.1; default: all")
    options = parser.parse_args()
    wstest = install()
    shutil.rmtree(REPORT, ignore_errors=True)
    with server() as url, tempfile.TemporaryDirectory() as folder:
        specification = json.loads((HERE / "fuzzingclient.json").read_text())
        specification["outdir"] = str(REPORT)
        specification["servers"] = [{"agent": "flask-aio-ws", "url": url}]
        if options.cases:
            specification["cases"] = options.cases
        path = Path(folder) / "fuzzingclient.json"
        path.write_text(json.dumps(specification))
        with open(Path(folder) / "output", "w+") as output:
            command: list[str | Path] = [wstest, "-m", "fuzzingclient", "-s", path]
            status = subprocess.run(
                command, cwd=folder, stdout=output, stderr=subprocess.STDOUT
            ).returncode
            output.seek(0)
            if status or not (REPORT / "index.json").exists():
                sys.exit(f"The suite failed with status {status}:\n{output.read()[-4000:]}")

    (results,) = json.loads((REPORT / "index.json").read_text()).values()
    if not results:
        sys.exit("The suite ran no case.")
    failed = 0
    for case in sorted(results, key=lambda case: [int(part) for part in case.split(".")]):
        result = results[case]
        if not {result["behavior"], result["behaviorClose"]} <= PASSED:
            failed += 1
            print(f"{case}: {result['behavior']}, close: {result['behaviorClose']}")
    counts = Counter(result["behavior"] for result in results.values())
    summary = ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())
    print(f"{len(results)} cases: {summary}. The report is {REPORT / 'index.html'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
