"""A few kills of `kill.py` for every job, which does hundreds when it is run by hand."""
import os
import subprocess
import sys

from conftest import ROOT, binary


def test_a_killed_run_leaves_no_partial_file():
    script = ROOT / "interop/kill.py"
    env = {**os.environ, "TNQ_BIN": str(binary())}
    done = subprocess.run([sys.executable, script, "--kills", "6"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
