from __future__ import annotations

import os
import signal

import pytest

from pipeline.terminal import Interrupts, TerminalProgress


class Swallower:
    """Its finaliser takes the time in which the signal comes, as TensorFlow's do."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_lost_in_a_finaliser_comes_back_with_the_next_step() -> None:
    reached: list[str] = []

    def work() -> None:
        with Interrupts() as interrupts, TerminalProgress(interrupts).bar("work", 10) as bar:
            bar.advance()
            Swallower()
            reached.append("behind the lost interrupt")
            bar.advance()
            reached.append("behind the next step")

    with pytest.raises(SystemExit) as ended:
        work()
    assert reached == ["behind the lost interrupt"]
    assert ended.value.code == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_each_signal_has_its_exit_code(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, Interrupts("do this next"):
        os.kill(os.getpid(), number)
    assert ended.value.code == code
    assert capsys.readouterr().err == "interrupted; do this next\n"
    assert signal.getsignal(number) is before


def test_without_a_signal_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Interrupts("do this next") as interrupts:
        interrupts.check()
    with pytest.raises(ValueError, match="of its own"), Interrupts("do this next"):
        raise ValueError("of its own")
    assert capsys.readouterr().err == ""
