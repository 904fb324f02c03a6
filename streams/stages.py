"""The composition root: each stage's Faust app, with every real part in place.

`faust -A streams.stages:join worker` starts one stage by Faust's own command, with the settings of the environment.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from tomllib import TOMLDecodeError, loads
from typing import Any, Final, NamedTuple

import structlog

from models.errors import SettingsError
from models.events import Closure, Decision, Feedback, Label, Outcome, Response
from models.joining import Horizons
from models.policy import Policies
from models.salience import MAX_KEY
from models.signing import Keys
from streams import topics
from streams.agents import fold, score
from streams.agents.common import Context
from streams.agents.expiry import Expiry
from streams.agents.join import Join
from streams.agents.learn import Learn
from streams.agents.watch import Watch
from streams.allocator import keep_memory
from streams.app import App, create_app
from streams.calibrations import Calibrations
from streams.clock import WallClock, clock_for
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.settings import NO_KEY, STAGES, Settings, Stage, load, unreadable
from streams.state import State

CACHE: Final = Path(".cache/demur")
"""Where the reference encoder is kept, in the folder that the command runs in."""
INPUTS: Final[dict[Stage, tuple[str, ...]]] = {
    "score": (Response.topic, Outcome.topic),
    "join": (Decision.topic, Feedback.topic),
    "learn": (Label.topic,),
    "watch": (Decision.topic, Label.topic, Closure.topic),
}

log = structlog.get_logger(__name__)


class Built(NamedTuple):
    """A stage's app, and what must hold before it is ready."""

    app: App
    checks: dict[str, Callable[[], bool]]


def build(name: Stage, settings: Settings, metrics: Metrics) -> Built:
    """Build one stage. Raises `SettingsError` or `ArtifactError`, in one sentence, before anything starts."""
    context = Context(settings.topic_prefix, metrics, keys_in(settings.keys), settings.partitions)
    makers: dict[Stage, Callable[[Settings, Context], Built]] = {
        "score": _score,
        "join": _join,
        "learn": _learn,
        "watch": _watch,
    }
    built = makers[name](settings, context)
    _measure(name, built.app, metrics)
    return built


def _measure(name: Stage, app: App, metrics: Metrics) -> None:
    """Let the metrics ask a stage's app for what they show, and the app count what is for it to count."""
    app.lost = {full: metrics.lost.labels(name, topic) for full, topic in app.inputs.items()}
    metrics.lags.stages[name] = app.lags
    metrics.clock.labels(stage=name).set_function(partial(getattr, app.clock, "skew_s"))


def changelogs(settings: Settings) -> list[str]:
    """Return the names of the topics that hold the stages' rows."""
    return [f"{settings.topic_prefix}demur-{stage}-state-changelog" for stage in STAGES]


def policies(file: Path | None) -> Policies:
    """Read the policy file. Raises `SettingsError`."""
    return Policies.read(_table("policy file", file)) if file else Policies()


@cache
def keys_in(file: Path | None) -> Keys | None:
    """Read the file of keys. Raises `SettingsError`, which shows no secret."""
    keys = Keys.read(_table("file of keys", file)) if file else None
    if keys and keys.unsigned_until and keys.unsigned_until > WallClock().now():
        raise SettingsError(
            f"file of keys {file}: `unsigned_until` is still to come: until then anybody could write without a "
            "signature; give a moment that is over, at which all producers signed"
        )
    return keys


def _table(what: str, file: Path) -> dict[str, Any]:
    try:
        return loads(file.read_text(encoding="utf-8"))
    except TOMLDecodeError:
        raise SettingsError(f"{what} {file} is not TOML: check its quotes and brackets") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{what} {file} is not in UTF-8: save it so") from None
    except OSError as error:
        raise unreadable(f"{what} {file}", error) from None


def horizons(settings: Settings) -> Horizons:
    """Return how long the join waits."""
    return Horizons(*(timedelta(seconds=s) for s in (settings.settle_s, settings.horizon_s, settings.orphan_s)))


def digest_keys(settings: Settings) -> tuple[bytes, ...]:
    """Return the key of the digests that decisions carry, then the one known beside it, if any; empty is no key."""
    found = (settings.salience_key, settings.salience_key_accepted)
    keys = [key.get_secret_value() for key in found if key] or [NO_KEY]
    return tuple(b"" if key == NO_KEY else key.encode()[:MAX_KEY] for key in keys)


def scorer(settings: Settings, metrics: Metrics) -> Scorer:
    """Load the encoder. Raises `ArtifactError`."""
    from models.encoder.loading import load as load_encoder  # noqa: PLC0415 (torch: only SCORE pays for it)

    keep_memory()
    on_cpu = settings.device == "cpu"  # where a worker is one core; a GPU is fed by several
    os.environ.setdefault("TOKENIZERS_PARALLELISM", str(not on_cpu).lower())  # noqa: TID251 (the library's own switch)
    path = reference() if settings.model == "reference" else settings.model
    where, budget = settings.device, settings.budget
    encoder = load_encoder(path, where, threads=1, batch_tokens=budget, precision=settings.precision)
    if encoder.runtime.precision == "bfloat16":
        encoder.warm()  # in float32 a call takes a hundred times as long as its kernels' making
    known = {"model_hash": encoder.model_hash[:12], "commit": encoder.commit}
    log.info("encoder", model=path, **known, **encoder.runtime._asdict())
    return Scorer(encoder, metrics, budget=budget, deadline_s=settings.deadline_s)


def reference(*, fast: bool = False, progress: Callable[[float, str], None] | None = None) -> str:
    """Return the folder of the reference encoder, trained first if need be. `progress`: told how far that has come."""
    from models.training.reference import ensure_reference  # noqa: PLC0415 (torch)

    return str(ensure_reference(CACHE, fast=fast, progress=progress))


def _score(settings: Settings, context: Context) -> Built:
    encoder, calibrations = scorer(settings, context.metrics), Calibrations(settings, context.keys)
    rules, clock = policies(settings.policy), clock_for(settings.time_source)
    expiry = Expiry(timedelta(seconds=settings.horizon_s), score.read_time, clock)
    parts = score.Parts(encoder, calibrations, rules, clock, digest_keys(settings))

    def make(state: State) -> score.Score:
        return score.Score(context, state, expiry, parts)

    app = create_app(settings, "score", INPUTS["score"], make, clock)
    app.task(calibrations.follow)
    app.task(encoder.watch)
    return Built(app, {"model": lambda: not encoder.hangs, "calibrations": lambda: calibrations.in_contact})


def _join(settings: Settings, context: Context) -> Built:
    clock = clock_for(settings.time_source)
    waits = horizons(settings)
    keys = digest_keys(settings)

    def make(state: State) -> Join:
        return Join(context, state, waits, clock, keys)

    return Built(create_app(settings, "join", INPUTS["join"], make, clock), {})


def _learn(settings: Settings, context: Context) -> Built:
    calibrations = Calibrations(settings, context.keys)
    built = _fold(Learn(policies(settings.policy), calibrations), settings, context)
    built.app.task(calibrations.follow)
    return built


def _watch(settings: Settings, context: Context) -> Built:
    return _fold(Watch(policies(settings.policy)), settings, context)


def _fold(folded: fold.Kind, settings: Settings, context: Context) -> Built:
    clock = clock_for(settings.time_source)
    expiry = Expiry(timedelta(seconds=2 * settings.horizon_s), fold.read_time, clock)
    name = folded.name

    def make(state: State) -> fold.Fold:
        return fold.Fold(folded, context, state, expiry, clock)

    return Built(create_app(settings, name, INPUTS[name], make, clock), {})


def __getattr__(name: str) -> App:
    """Build a stage when Faust's command asks for it by name, if its topics are cut so; nothing happens at import."""
    if name in STAGES:
        settings = load()
        topics.check(topics.describe(settings, changelogs(settings)))
        return build(name, settings, Metrics()).app
    raise AttributeError(name)
