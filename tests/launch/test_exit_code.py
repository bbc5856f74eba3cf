"""What background threads of a failed save find is not printed; anything else is."""

import sys
from types import SimpleNamespace

import pytest

from vision.errors import UserError
from vision.launch.exit_code import exit_code


@pytest.mark.parametrize(("error", "printed"), [(RuntimeError("Event loop is closed"), False), (ValueError("x"), True)])
def test_late_callbacks_are_silent(monkeypatch, capsys, error, printed):
    others = []
    monkeypatch.setattr(sys, "unraisablehook", others.append)
    hook = sys.unraisablehook

    def fail():
        sys.unraisablehook(SimpleNamespace(exc_value=error))
        raise UserError("the disk is full", code=4)

    assert exit_code(fail) == 4
    assert capsys.readouterr().err == "error: the disk is full\n"
    assert len(others) == printed
    assert sys.unraisablehook is hook
