"""Whether anything was lost: each account with both its sides, and a sentence for every one that does not balance."""

from typing import NamedTuple

from models.accounts.accounts import Accounts
from models.accounts.lives import ARRIVED, DECIDED, JUDGED, LABELLED, UNLABELLED
from models.events import Feedback


class Account(NamedTuple):
    """What came in against what came of it. `wrong` says in words what does not balance; empty when it does."""

    name: str
    parts: dict[str, int]
    went_in: int
    wrong: str = ""


def accounts_of(accounts: Accounts, dead_letters_planted: int | None = None) -> list[Account]:
    """Return every account of a stream that has come to rest."""
    found = [_responses(accounts), _feedback(accounts), _invalid(accounts)]
    return found if dead_letters_planted is None else [*found, _planted(accounts, dead_letters_planted)]


def followed(accounts: Accounts) -> Account:
    """Return what became of the responses of a stream that goes on: what has no end yet is pending, not lost."""
    lives, decided = accounts.lives, accounts.lives.count(DECIDED)
    parts = {
        "judged": lives.count(JUDGED),
        "abandoned or retracted": lives.lacking(LABELLED, JUDGED),
        "closed without a verdict": lives.lacking(UNLABELLED, LABELLED),
        "pending": accounts.waiting,
    }
    return Account("responses decided on", parts, decided)


def balances(accounts: Accounts, dead_letters_planted: int | None = None) -> list[str]:
    """Name each account that does not balance; an empty list says that nothing was lost.

    >>> from models.accounts.accounts import Accounts
    >>> balances(Accounts()), balances(Accounts(), dead_letters_planted=1)
    ([], ['planted broken messages: 1 planted, 0 dead letters'])
    """
    return [a.wrong for a in accounts_of(accounts, dead_letters_planted) if a.wrong]


def _responses(accounts: Accounts) -> Account:
    lives = accounts.lives
    undecided, unasked = lives.lacking(ARRIVED, DECIDED), lives.lacking(DECIDED, ARRIVED)
    return Account(
        "responses",
        {"decisions": lives.count(DECIDED)},
        lives.count(ARRIVED),
        _sentence("responses", {"without a decision": undecided, "decided on but never read": unasked}),
    )


def _feedback(accounts: Accounts) -> Account:
    """Feedback that could be read may be refused, for there is too much of it; its dead letter does not name it."""
    ends = accounts.endings
    dead = max(0, _letters(accounts, Feedback.topic) - accounts.invalid[Feedback.topic])
    parts = {
        "labels": accounts.labels,
        "duplicates": ends["duplicate"],
        "superseded": ends["superseded"],
        "orphans": ends["orphan"],
        "dead letters": dead,
    }
    over = accounts.feedback.over - dead
    open_ = {"without an outcome": max(0, over), "with an outcome too many": accounts.feedback.under + max(0, -over)}
    wrong = _sentence("feedback records", open_)
    return Account("feedback records", parts, accounts.feedback_in, wrong)


def _invalid(accounts: Accounts) -> Account:
    """A stage may refuse a message that decodes (so more dead letters are right), but none that does not is dropped."""
    letters = {topic: _letters(accounts, topic) for topic in accounts.invalid}
    silent = sum(max(0, n - letters[topic]) for topic, n in accounts.invalid.items())
    name, parts = "undecodable messages", {f"dead letters from {t}": n for t, n in letters.items()}
    wrong = _sentence(name, {"without a dead letter": silent})
    return Account(name, parts or {"dead letters": 0}, accounts.invalid.total(), wrong)


def _letters(accounts: Accounts, topic: str) -> int:
    return sum(n for (source, _), n in accounts.dead.items() if source == topic)


def _planted(accounts: Accounts, planted: int) -> Account:
    name, letters = "planted broken messages", accounts.dead_letters
    wrong = "" if letters == planted else f"{name}: {planted} planted, {letters} dead letters"
    return Account(name, {"dead letters": letters}, planted, wrong)


def _sentence(name: str, faults: dict[str, int]) -> str:
    found = ", ".join(f"{n:,} {fault}" for fault, n in faults.items() if n)
    return f"{name}: {found}" if found else ""
