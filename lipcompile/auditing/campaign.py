"""Runs attacks on both models and has ONNX Runtime judge every candidate.

Both models get the same attacks and the same number of runs, and what is found against one is
replayed on the other. Where the hardened model has a surrogate gradient and the original has
none, the original is attacked once more from another random start, so that neither is favoured
by more attempts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lipcompile.auditing.attacks import Attack
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.journal import Journal
from lipcompile.auditing.judge import Deployed, Judgement, judge
from lipcompile.auditing.pixel_model import PixelModel
from lipcompile.auditing.seeds import derived_seed, seeded
from lipcompile.auditing.strike import Found, Strike
from lipcompile.auditing.victim import Victim
from lipcompile.errors import RunFailure
from lipcompile.labelled import LabelledImages
from lipcompile.records import SITES
from lipcompile.runtime import package_version
from lipcompile.torchview.backward import Gradient
from lipcompile.torchview.program import is_out_of_memory
from lipcompile.version import __version__

Notify = Callable[[str], None]
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "onnx", "pyautoattack", "numpy")


@dataclass(slots=True)
class Campaign:
    """The state of an audit's attacks.

    Attributes:
        images: What is attacked.
        budget: How far.
        victims: Both models by role.
        journal: Keeps candidates of finished batches.
        seed: Of everything random.
        batch: Images per batch; halved when memory runs out.
        notify: Told each finished strike in one line.
        clean: By role, bool [N]: classified correctly without attack.
        strikes: Everything that was run, in order.
        examples: By role, float32 [N, C, H, W]: the first candidate that broke each image,
            or the image itself.
        notes: What a reader of the result has to know.
    """

    images: LabelledImages
    budget: Budget
    victims: dict[str, Victim]
    journal: Journal
    seed: int
    batch: int
    notify: Notify
    clean: dict[str, np.ndarray] = field(default_factory=dict)
    strikes: list[Strike] = field(default_factory=list)
    examples: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure_clean(self) -> None:
        """Classifies the images themselves."""
        for role, victim in self.victims.items():
            self.clean[role] = victim.is_right(self.images.pixels, self.images.labels)

    def robust(self, role: str) -> np.ndarray:
        """bool [N]: correct, and broken by no strike so far (the pointwise worst case)."""
        alive = self.clean[role].copy()
        for strike in self.strikes:
            if strike.role == role:
                alive &= ~strike.broken
        return alive

    def find(self, role: str, path: str, attack: str) -> Strike | None:
        """The first such strike."""
        for strike in self.strikes:
            if (strike.role, strike.path, strike.attack) == (role, path, attack):
                return strike
        return None

    def attack(
        self,
        role: str,
        path: str,
        attack: Attack,
        among: np.ndarray,
        *,
        gradient: Gradient = "exact",
        start: Found | None = None,
    ) -> Found:
        """Runs an attack on the images in `among`, and judges what it found.

        Args:
            role: Which model.
            path: Name of the path, which also seeds it.
            attack: What to run.
            among: bool [N].
            gradient: What is differentiated; no matter to a black-box attack.
            start: Its candidates are the starting points.
        """
        begin = time.perf_counter()
        chosen = np.flatnonzero(among)
        candidates = self._candidates(role, path, attack, chosen, gradient, start)
        view = None if attack.black_box else self.victims[role].view(gradient)
        settings = {
            **attack.settings(),
            "gradient": "none" if attack.black_box else gradient,
            "seed": self.seed,
        }
        return self._judge(role, path, attack.name, settings, chosen, candidates, begin, view)

    def transfer(self, found: Found, role: str) -> None:
        """Replays the candidates found against the other model, as they are."""
        begin, source = time.perf_counter(), found.strike
        chosen = np.flatnonzero(source.attacked)
        both = self.clean[role][chosen]
        settings = {**source.settings, "found_on": source.role, "found_by": source.path}
        candidates = found.candidates[both]
        name = source.attack
        self._judge(role, "transfer", name, settings, chosen[both], candidates, begin)

    def _judge(
        self,
        role: str,
        path: str,
        name: str,
        settings: dict[str, Any],
        chosen: np.ndarray,
        candidates: np.ndarray,
        begin: float,
        view: PixelModel | None = None,
    ) -> Found:
        pixels, labels = self.images.pixels[chosen], self.images.labels[chosen]
        found = judge(self.victims[role], self.budget, pixels, labels, candidates)
        first = found.broken & self.robust(role)[chosen]
        kept = self.examples.setdefault(role, self.images.pixels.copy())
        kept[chosen[first]] = found.inside[first]
        attacked, broken = (np.zeros(len(self.images.labels), bool) for _ in range(2))
        attacked[chosen] = True
        broken[chosen] = found.broken
        strike = Strike(
            role,
            path,
            name,
            settings,
            attacked,
            broken,
            float(found.size[found.broken].max(initial=0.0)),
            0 if view is None else self._view_only(view, found, labels),
            time.perf_counter() - begin,
        )
        self.strikes.append(strike)
        self.notify(
            f"{role}: {path} {name} broke {found.broken.sum()} of {len(chosen)} images "
            f"({strike.seconds:.1f} s)"
        )
        return Found(strike, found.inside)

    def _view_only(self, view: PixelModel, found: Judgement, labels: np.ndarray) -> int:
        """How many candidates the view misclassifies and the deployed file does not."""
        count = 0
        for start in range(0, len(labels), self.batch):
            rows = slice(start, start + self.batch)
            predicted = view.predict(found.inside[rows])
            count += int(((predicted != labels[rows]) & ~found.broken[rows]).sum())
        return count

    def side(self, **changes: Any) -> Campaign:
        """A campaign about the same images whose strikes do not count in this one.

        Args:
            changes: Other values for its fields, for example `budget` or `victims`.
        """
        return replace(
            self, **{"strikes": [], "examples": {}, "clean": dict(self.clean), **changes}
        )

    def _candidates(
        self,
        role: str,
        path: str,
        attack: Attack,
        chosen: np.ndarray,
        gradient: Gradient,
        start: Found | None,
    ) -> np.ndarray:
        found = [np.zeros((0, *self.images.pixels.shape[1:]), np.float32)]
        done = 0
        while done < len(chosen):
            part = chosen[done : done + self.batch]
            try:
                found.append(self._batch(role, path, attack, part, gradient, start))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(part), error)
            else:
                done += len(part)
        return np.concatenate(found)

    def _batch(
        self,
        role: str,
        path: str,
        attack: Attack,
        part: np.ndarray,
        gradient: Gradient,
        start: Found | None,
    ) -> np.ndarray:
        """The candidates for the images `part`, from the journal or by the attack."""
        victim = self.victims[role]
        begin_at = _rows_of(start, part, self.images.pixels) if start else None
        key = {
            "versions": versions(),
            "device": [str(victim.device), torch.get_num_threads()],
            "model": [victim.model.digest, victim.model.metadata.get(SITES)],
            "data": self.images.digest,
            "normalisation": self.images.normalisation.to_json(),
            "part": part.tolist(),
            "attack": attack.settings(),
            "gradient": gradient,
            "budget": [self.budget.norm, self.budget.eps],
            "path": path,
            "seed": self.seed,
            "start": None if begin_at is None else _digest(begin_at),
        }

        def compute() -> np.ndarray:
            with seeded(derived_seed(self.seed, path, attack.name, int(part[0]))):
                return self._run(victim, attack, gradient, part, begin_at)

        shape = (len(part), *self.images.pixels.shape[1:])
        found = self.journal.entry(key, shape, compute)
        if self.journal.problem is not None and self.journal.problem not in self.notes:
            self.notes.append(self.journal.problem)
            self.notify(self.journal.problem)
        return found

    def _run(
        self,
        victim: Victim,
        attack: Attack,
        gradient: Gradient,
        part: np.ndarray,
        start: np.ndarray | None,
    ) -> np.ndarray:
        device = torch.device("cpu") if attack.black_box else victim.device
        model = Deployed(victim) if attack.black_box else victim.view(gradient)
        pixels = torch.from_numpy(self.images.pixels[part]).to(device)
        labels = torch.from_numpy(self.images.labels[part]).to(device)
        begin = None if start is None else torch.from_numpy(start).to(device)
        with torch.set_grad_enabled(not attack.black_box):
            candidates = attack.run(model, pixels, labels, self.budget, begin)
        result: np.ndarray = candidates.detach().cpu().numpy().astype(np.float32)
        return result

    def _halve(self, size: int, error: Exception) -> None:
        if size == 1:
            raise RunFailure(
                "out of memory with a single image in the batch: audit a smaller model, or "
                "run where there is more memory"
            ) from error
        self.batch = max(1, size // 2)
        note = f"out of memory with {size} images in a batch: went on with {self.batch}"
        self.notes.append(note)
        self.notify(note)


def versions() -> dict[str, str]:
    """The packages that decide what an attack finds."""
    found = {"lipcompile": __version__}
    return found | {name: v for name in _PACKAGES if (v := package_version(name))}


def _rows_of(start: Found, part: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Starting points: the candidate of each image, or the image where there is none."""
    attacked = start.strike.attacked
    place = np.cumsum(attacked) - 1
    rows: np.ndarray = pixels[part].copy()
    known = attacked[part]
    rows[known] = start.candidates[place[part[known]]]
    return rows


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
