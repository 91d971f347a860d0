"""What a run says while it works, where no terminal shows a bar."""

import logging

from common.run import progress
from common.run.progress import Progress


def test_a_line_says_how_far_the_last_note_and_how_long_still(monkeypatch, caplog):
    """Of a training that went on from its fifth step of fifteen, a step every ten seconds."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        shown = Progress(15, "flat", initial=5)
        for note in ("loss=3", "", "loss=2", ""):
            shown.update(note)
        shown.close("loss=1")
    assert caplog.messages == [
        "flat: 7/15, 80 s left loss=3",
        "flat: 9/15, 60 s left loss=2",
        "flat: done in 50.0 s loss=1",
    ]
