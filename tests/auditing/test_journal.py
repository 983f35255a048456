"""A journal gives back exactly what was computed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipcompile import atomic
from lipcompile.auditing.journal import Journal
from lipcompile.errors import OutputError, SaveError

SHAPE = (2, 1, 3, 3)
CANDIDATES = np.linspace(0, 1, 18, dtype=np.float32).reshape(SHAPE)


def never() -> np.ndarray:
    raise AssertionError("it was computed again")


def test_entry_is_computed_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert np.array_equal(journal.entry({"part": [1]}, SHAPE, lambda: CANDIDATES), CANDIDATES)
    again = Journal(tmp_path / "journal")
    assert np.array_equal(again.entry({"part": [1]}, SHAPE, never), CANDIDATES)
    assert (journal.reused, again.reused) == (0, 1)


@pytest.mark.parametrize("key", [{"part": [2]}, {"part": [1], "seed": 1}, {"seed": [1]}])
def test_other_work_is_another_entry(tmp_path: Path, key: dict[str, object]) -> None:
    journal = Journal(tmp_path)
    journal.entry({"part": [1]}, SHAPE, lambda: CANDIDATES)
    assert not journal.entry(key, SHAPE, lambda: np.zeros(SHAPE, np.float32)).any()


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01", b"junk" * 100])
def test_damaged_entry_is_computed_again(tmp_path: Path, damage: bytes) -> None:
    Journal(tmp_path).entry({}, SHAPE, lambda: CANDIDATES)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    journal = Journal(tmp_path)
    assert np.array_equal(journal.entry({}, SHAPE, lambda: CANDIDATES), CANDIDATES)
    assert journal.reused == 0
    assert np.array_equal(Journal(tmp_path).entry({}, SHAPE, never), CANDIDATES)


def test_entry_of_another_shape_or_type_is_computed_again(tmp_path: Path) -> None:
    Journal(tmp_path).entry({}, SHAPE, lambda: CANDIDATES)
    (file,) = tmp_path.iterdir()
    for other in (CANDIDATES[:1], CANDIDATES.astype(np.float64)):
        np.save(file, other)
        assert np.array_equal(
            Journal(tmp_path).entry({}, SHAPE, lambda: CANDIDATES), CANDIDATES
        )


def test_remove_leaves_other_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder)
    journal.entry({}, SHAPE, lambda: CANDIDATES)
    (folder / "notes.txt").write_text("mine")
    journal.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    journal.remove()
    assert not folder.exists()


def test_without_a_folder_nothing_is_kept() -> None:
    journal = Journal(None)
    journal.entry({}, SHAPE, lambda: CANDIDATES)
    assert not journal.entry({}, SHAPE, lambda: CANDIDATES * 0).any()
    journal.remove()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot be made .*: name another with --journal"):
        Journal(tmp_path / "file" / "journal")


@pytest.mark.parametrize("error", [SaveError("the disk is full"), OSError(28, "No space")])
def test_journal_that_cannot_be_written_gives_what_was_computed(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.entry({"part": [0]}, SHAPE, lambda: CANDIDATES)
    assert journal.problem is None
    asked: list[Path] = []

    def full(path: Path, *chunks: bytes) -> None:
        asked.append(path)
        raise error

    monkeypatch.setattr(atomic, "write_bytes", full)
    for part in range(1, 4):
        found = journal.entry({"part": [part]}, SHAPE, lambda: CANDIDATES)
        assert np.array_equal(found, CANDIDATES)
    assert len(asked) == 1  # it is not tried again
    assert journal.problem is not None
    assert journal.problem.startswith(f"the journal '{tmp_path}' could not be written (")
    assert str(error) in journal.problem
    # What was written before can be read still.
    assert np.array_equal(journal.entry({"part": [0]}, SHAPE, never), CANDIDATES)
