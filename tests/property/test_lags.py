from hypothesis import given
from hypothesis import strategies as st

from models.accounts.lags import Lags

gaps = st.integers(0, 50)


@st.composite
def histories(draw):
    """Labels, versions that fold some of them each, and decisions made with versions of some time ago."""
    labels, versions, decisions, at = [], [], [], 0
    for _ in range(draw(st.integers(0, 30))):
        at += draw(gaps)
        kind = draw(st.sampled_from(["label", "version", "decision"]))
        if kind == "label":
            labels.append(at)
        elif kind == "version" and len(labels) > (versions[-1][0] if versions else 0):
            versions.append((len(labels), at))
        elif kind == "decision" and versions:
            decisions.append((draw(st.sampled_from(versions))[0], at))
    return labels, versions, decisions


def first(found, since):
    return min(found) - since if found else None


@given(histories(), st.booleans())
def test_lags_are_those_of_the_plain_definition(history, repeated):
    labels, versions, decisions = history
    lags = Lags()
    for version, at in decisions:
        lags.decision("d", version=version, at_ms=at)
    for version, at in versions:
        for _ in range(1 + repeated):
            lags.calibration("d", version=version, at_ms=at)
    for at in labels:
        lags.change("d", at)
    to_threshold, to_decision = [], []
    for i, since in enumerate(labels, 1):
        to_threshold.append(first([at for version, at in versions if version >= i], since))
        containing = min((version for version, _ in versions if version >= i), default=None)
        reached = [at for version, at in decisions if containing is not None and version >= containing]
        to_decision.append(first(reached, since))
    assert lags.to_threshold().tolist() == [x for x in to_threshold if x is not None]
    assert lags.to_decision().tolist() == [x for x in to_decision if x is not None]


@given(histories(), histories())
def test_deployments_do_not_mix(one, other):
    together, alone = Lags(), Lags()
    for name, (labels, versions, _) in (("a", one), ("b", other)):
        for at in labels:
            together.change(name, at)
        for version, at in versions:
            together.calibration(name, version=version, at_ms=at)
    for at in one[0]:
        alone.change("a", at)
    for version, at in one[1]:
        alone.calibration("a", version=version, at_ms=at)
    mine = alone.to_threshold().tolist()
    assert together.to_threshold().tolist()[: len(mine)] == mine
