"""sweep() with attacks, and what Ctrl-C leaves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile.errors import Interrupted
from lipcompile.sweeping import comparing
from lipcompile.sweeping.sweep import sweep
from tests.sweeping.benches import FEW, pixels


def test_settings_are_attacked_on_the_choosing_part_and_confirmed_on_the_other(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    attacked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, set[bytes]]] = []
    real = comparing.Comparison._attack

    def attack(self: comparing.Comparison, candidate: Any, rows: np.ndarray) -> Any:
        assert hasattr(self.bench.examples, "images")
        images = self.bench.examples.images.subset(rows)
        seen.append((candidate.name, {x.tobytes() for x in images.pixels}))
        return real(self, candidate, rows)

    monkeypatch.setattr(comparing.Comparison, "_attack", attack)
    monkeypatch.setattr(comparing.Comparison, "is_better", lambda self, best: True)
    notes: list[str] = []
    result = sweep(
        *(proto, pixels(40), data), max_accuracy_drop=1.0, notify=notes.append, **attacked
    )
    assert [len(images) for _, images in seen] == [12, 12, 30]
    assert seen[0][1] == seen[1][1]
    assert not seen[0][1] & seen[2][1]
    said = result.to_json()
    assert said["attack"] == {
        "norm": "linf",
        "eps": 0.2,
        "unit": "pixels",
        "preset": "fast",
        "images": 12,
        "seed": 0,
    }
    worst = [row["worst_case"] for row in said["settings"]]
    assert all(x["difference"]["n"] == 12 for x in worst)
    assert len({x["original"] for x in worst}) == 1
    audit = said["confirmed"]["audit"]
    assert audit["data"]["images"] == 30
    assert said["verdict"] == audit["verdict"] == result.verdict
    assert re.search(r"on the 30 samples .* worst case: ", str(result))
    assert notes.count("attacking hard 2^-6 on 12 images") == 1


def test_none_better_is_none_chosen_and_a_wish_for_robustness_fails(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    attacked: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing.Comparison, "is_better", lambda self, best: False)
    files = {"output": tmp_path / "m.onnx", "save_table": tmp_path / "t.json"}
    given = {**attacked, **files, "cr": "2^-6", "max_accuracy_drop": 1.0}
    result = sweep(proto, pixels(40), data, min_robust_accuracy=0.0, **given)
    assert result.failed_gates == (result.why,)
    assert (result.verdict, result.command) == ("nothing chosen", None)
    assert [x.name for x in tmp_path.iterdir()] == ["t.json"]  # the table was asked for
    again = sweep(proto, pixels(40), data, **{**given, "force": True})
    assert again.failed_gates == ()


def test_a_masked_worst_case_passes_no_gate(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    attacked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lipcompile.auditing.results import AuditResult

    monkeypatch.setattr(comparing.Comparison, "is_better", lambda self, best: True)
    given = {**attacked, "cr": "2^-6", "max_accuracy_drop": 1.0, "min_robust_accuracy": 0.0}
    assert sweep(proto, pixels(40), data, **given).failed_gates == ()
    real, told = AuditResult.verdict.fget, iter(["improved", "masked"])  # type: ignore[attr-defined]
    verdicts: dict[int, str] = {}

    def verdict(self: AuditResult) -> str:
        assert real is not None
        return verdicts.setdefault(len(self.labels), next(told, "masked"))

    monkeypatch.setattr(AuditResult, "verdict", property(verdict))
    result = sweep(proto, pixels(40), data, **given)
    (reason,) = result.failed_gates
    assert "masking checks failed, so the worst case of" in reason and "upper bound" in reason


def test_attacks_on_the_original_are_shared_and_tidied_up(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    attacked: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lipcompile.auditing.journal import Journal

    used: dict[str, int] = {}
    real = Journal.entry

    def entry(self: Journal, *given: Any) -> np.ndarray:
        found = real(self, *given)
        used[str(self.folder)] = self.reused + used.get(str(self.folder), 0)
        return found

    monkeypatch.setattr(Journal, "entry", entry)
    sweep(proto, pixels(40), data, max_accuracy_drop=1.0, **attacked)
    ((folder, reused),) = used.items()
    assert reused > 0 and not Path(folder).exists()
    mine = tmp_path / "journal"
    sweep(proto, pixels(40), data, max_accuracy_drop=1.0, journal=mine, **attacked)
    assert any(mine.iterdir())


def test_ctrl_c_without_a_journal_keeps_nothing(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray], attacked: dict[str, Any]
) -> None:
    def stop(text: str) -> None:
        if "broke" in text:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="without a journal nothing was kept"):
        sweep(proto, pixels(40), data, max_accuracy_drop=1.0, notify=stop, **attacked)


def test_ctrl_c_while_calibrating_writes_nothing(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted, match="interrupted while calibrating: nothing was wr"):
        sweep(proto, pixels(40), data, progress=stop, **FEW)
    assert list(tmp_path.iterdir()) == []
