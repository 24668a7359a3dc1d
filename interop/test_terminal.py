"""The command on a terminal: tables that fit it, no colours where NO_COLOR asks for none, and Ctrl-C."""
import fcntl
import os
import pty
import random
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import ROOT, binary

MODEL = "examples/digits/model.onnx"


def on_terminal(columns, *args):
    """What `tnq` prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    run = subprocess.Popen([binary(), *args], cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert run.wait() == 0
    return text.decode()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_fits_the_terminal(columns):
    text = on_terminal(columns, "inspect", MODEL)
    table = text[: text.index("model.onnx")].rsplit("\n", 1)[0]
    assert "Gemm" in table
    assert max(len(line) for line in table.splitlines()) <= columns


def test_no_color_means_none():
    assert "\x1b[" not in on_terminal(80, "inspect", MODEL)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_at_once_and_leaves_nothing_half_written(tmp_path, kind):
    pick = random.Random(kind)
    interrupted = 0
    for _ in range(6):
        args = ["compress", MODEL, "-o", tmp_path / "out.onnx", "--force", "--quiet", "--calib", "examples/digits/calib.npz"]
        # A shell starts what runs in its background with SIGINT ignored, and the tests may run there.
        run = subprocess.Popen([binary(), *args, "--target-size", "12x"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(kind, signal.SIG_DFL))
        time.sleep(pick.uniform(0.05, 0.4))
        run.send_signal(kind)
        try:
            run.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            run.kill()
            raise
        assert run.returncode in (0, -kind)
        interrupted += run.returncode == -kind
        files = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert files <= {"out.onnx"}
    assert interrupted
