import os
import signal

import pytest

from vision.train.interruption import EXIT_CODE, Interrupted, Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request(number):
    with Interruption() as interruption:
        assert not interruption.requested(1)
        os.kill(os.getpid(), number)
        assert interruption.requested(2)


def test_a_second_ctrl_c_acts_at_once_and_a_second_sigterm_does_not():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested(2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


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
