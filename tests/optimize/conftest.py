"""What tests of optimised networks share."""

import pytest
import torch


@pytest.fixture
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run as they were recorded, which is quick; that torch.compile takes them is for the other tests here."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
