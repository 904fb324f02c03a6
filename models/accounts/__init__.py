"""The accounts of a stream: what went in, what came of it, and whether anything was lost.

Pure and incremental: feed every record of every topic, in any interleaving of the topics, once or more often.

    accounts.py     Accounts: one record in, the books updated
    selection.py    which events a report is about: the responses of a period, and what became of them
    lives.py        which stages each response has reached
    unmatched.py    feedback records that have no outcome yet
    tallies.py      per scope, hour and tier: decisions, verdicts, rejections
    reliability.py  predicted against realised rejection; Brier score
    lags.py         how long until a label moves the threshold, and a decision
    changes.py      what the calibrator changed and why
    run.py          what a run is known to contain: its title, drift, planted messages
    spans.py        hours gathered, so that a chart has a readable number of points
    balance.py      each account that does not balance, named
    summary.py      the figures as one JSON object
"""

from models.accounts.accounts import Accounts
from models.accounts.balance import balances
from models.accounts.run import Drift, Promise, Run
from models.accounts.selection import Selection
from models.accounts.summary import summary

__all__ = ["Accounts", "Drift", "Promise", "Run", "Selection", "balances", "summary"]
