"""The interpreter's settings while a server runs."""

from __future__ import annotations

import gc
import sys

import pytest

from flask_aio_core.interpreter import tuned_interpreter


@pytest.fixture(autouse=True)
def _settings():
    interval, threshold, enabled = sys.getswitchinterval(), gc.get_threshold(), gc.isenabled()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    (gc.enable if enabled else gc.disable)()


def test_settings_hold_in_the_block_and_are_restored(app, aio):
    """What the configuration says holds while the server runs, and what was before it again."""
    before = sys.getswitchinterval(), gc.get_threshold()
    app.config.update(AIO_SWITCH_INTERVAL=0.002, AIO_GC_THRESHOLD=123_456)

    with tuned_interpreter(app):
        assert sys.getswitchinterval() == pytest.approx(0.002)
        assert gc.get_threshold() == (123_456, *before[1][1:])
        assert gc.get_freeze_count() > 0

    assert (sys.getswitchinterval(), gc.get_threshold()) == before
    assert gc.get_freeze_count() == 0


def test_none_leaves_everything_alone(app, aio):
    """None is the interpreter's own setting."""
    app.config.update(AIO_SWITCH_INTERVAL=None, AIO_GC_THRESHOLD=None)
    before = sys.getswitchinterval(), gc.get_threshold()

    with tuned_interpreter(app):
        assert (sys.getswitchinterval(), gc.get_threshold()) == before
        assert gc.get_freeze_count() == 0


def test_a_higher_threshold_of_the_program_stays(app, aio):
    """The program's own choice is not lowered."""
    gc.set_threshold(1_000_000, 20, 20)

    with tuned_interpreter(app):
        assert gc.get_threshold() == (1_000_000, 20, 20)


def test_a_collector_that_is_off_stays_off(app, aio):
    """A program that collects by itself is not interfered with."""
    gc.disable()
    before = gc.get_threshold()

    with tuned_interpreter(app):
        assert not gc.isenabled()
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0
