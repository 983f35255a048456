"""Controls: the original hardened with other thresholds, where the outcome is known.

With thresholds near zero hardening must do nothing. With random thresholds it must not do as
well as with the calibrated ones, or the calibration is not what helped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lipcompile import model_io
from lipcompile.auditing.attacks import Attack
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.statistics import PairedDifference
from lipcompile.auditing.victim import Victim, open_victim
from lipcompile.errors import InputError
from lipcompile.forged import make_form
from lipcompile.passes.insert_forged import InsertForged, plan_site
from lipcompile.provenance import SITES, read_sites
from lipcompile.sites import Selector, find_sites

_NEAR_ZERO = 2.0**-30  # factor on the thresholds
_SAME = 1e-3  # of the largest score
_SPREAD = 2.0  # random thresholds: c * 2^u, u uniform within this on both sides
_SIGNIFICANT = 0.05


def control_checks(campaign: Campaign, attack: Attack, improved: bool) -> list[Check]:
    """Both controls.

    Args:
        campaign: After all its attacks.
        attack: Run with the identity gradient on the placebo, as it was on the hardened model.
        improved: Whether a gain would be claimed; the placebo has to be beaten only then.
    """
    return [_limit(campaign), _placebo(campaign, attack, improved)]


def _limit(campaign: Campaign) -> Check:
    name = "thresholds near zero reproduce the original"
    built = _rebuild(campaign, lambda c: c * _NEAR_ZERO)
    if isinstance(built, str):
        return Check(name, "ours", None, built)
    pixels = campaign.images.pixels
    before = campaign.victims["original"].deployed(pixels)
    after = built.deployed(pixels)
    difference = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-30))
    same = float((after.argmax(axis=1) == before.argmax(axis=1)).mean())
    evidence = (
        f"largest difference {difference:.2g} of the scores, {same:.2%} of {len(pixels)} "
        "predictions the same"
    )
    return Check(name, "ours", difference <= _SAME and same >= 0.99, evidence)


def _placebo(campaign: Campaign, attack: Attack, improved: bool) -> Check:
    name = "a placebo with random thresholds is no better"
    generator = np.random.default_rng(campaign.seed)
    built = _rebuild(campaign, lambda c: c * 2.0 ** generator.uniform(-_SPREAD, _SPREAD))
    if isinstance(built, str):
        return Check(name, "ours", None, built)
    inner = Campaign(
        campaign.images,
        campaign.budget,
        {"placebo": built},
        campaign.journal,
        campaign.seed,
        campaign.batch,
        campaign.notify,
    )
    inner.measure_clean()
    clean = inner.clean["placebo"]
    found = inner.attack("placebo", "bpda-identity", attack, clean, gradient="identity")
    placebo = clean & ~found.strike.broken
    strike = campaign.find("hardened", "bpda-identity", attack.name)
    assert strike is not None
    hardened = campaign.clean["hardened"] & ~strike.broken
    paired = PairedDifference.of(placebo, hardened)
    beaten = paired.p < _SIGNIFICANT and paired.difference > 0
    evidence = (
        f"under bpda-identity {attack.name}: hardened {hardened.mean():.2%}, placebo "
        f"{placebo.mean():.2%} (McNemar p = {paired.p:.2g})"
    )
    if not improved:
        evidence += "; no gain is claimed that it could explain"
    return Check(name, "ours", beaten or not improved, evidence)


def _rebuild(campaign: Campaign, change: Callable[[float], float]) -> Victim | str:
    """The original hardened at the same sites with changed thresholds, or why not."""
    original, hardened = campaign.victims["original"], campaign.victims["hardened"]
    records = read_sites(hardened.model.metadata)
    if not records:
        return "the file has no LipCompile provenance to build it from"
    source = model_io.load(original.model.path or original.model.proto)
    sites = {site.tensor: site for site in find_sites(source.graph_ir, Selector("all")).sites}
    try:
        for record in records:
            parameters = {k: record[k] for k in ("a", "b") if k in record}
            form, site = make_form(record["form"], **parameters), sites[record["tensor"]]
            chosen = set(record["layers"])
            site = replace(site, layers=tuple(x for x in site.layers if x.name in chosen))
            c = change(float(record["c"]))
            plan = plan_site(site, math.nan, c, form, source.opset)
            forged = InsertForged(form, (plan,))(source.graph_ir)
            record |= {"c": plan.c, "forged": forged[site.tensor]}
    except (InputError, KeyError) as error:
        return f"it cannot be built: {error}"
    proto = model_io.render(source.proto, source.graph_ir, {SITES: json.dumps(records)})
    rebuilt = model_io.load(proto)
    rebuilt.base_dir = original.model.base_dir
    return open_victim(
        "placebo",
        rebuilt,
        original.normalisation,
        campaign.images.pixels[:64],
        original.device,
        0,
    )
