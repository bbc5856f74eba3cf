import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vision.stopping import EXIT_CODE
from vision.train import interruption as module
from vision.train.interruption import Interrupted, Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request(number):
    with Interruption() as interruption:
        assert not interruption.requested(1)
        os.kill(os.getpid(), number)
        assert interruption.requested(2)


def test_a_second_ctrl_c_acts_at_once_and_a_second_sigterm_does_not(monkeypatch):
    stopped = []
    monkeypatch.setattr(module, "stop", lambda message, code: stopped.append((message, code)))
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested(2)
        assert not stopped
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped == [("stopped at once; the same command continues from the last checkpoint", 130)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [("experiments.resnet_mnist", "--quick"), ("vision", "evaluate", "nowhere")])
def test_signals_while_modules_are_imported_are_one_sentence(number, words):
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True)
    caught = 0
    while not caught >> (number - 1) & 1:  # until the handler is in place, long before JAX is imported
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        # Python has a handler of SIGINT from its start
        caught &= ~0 if caught >> (signal.SIGTERM - 1) & 1 else 0
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    assert said == "stopped while no training was going on; run the same command again\n"


def test_a_library_that_is_imported_leaves_signals_alone():
    code = "import signal, vision, experiments; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


def test_the_handlers_from_before_come_back_even_after_an_error():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def fail():
        with Interruption():
            assert signal.getsignal(signal.SIGTERM) != before[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_exit_code_is_that_of_a_temporary_failure():
    assert os.EX_TEMPFAIL == EXIT_CODE
    assert str(Interrupted(7)) == "interrupted after step 7"
