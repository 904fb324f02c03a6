"""The online calibrator: `estimator` for river, `ledger` for LEARN, `serving` for SCORE.

basis      raw logit to features          ledger     the fold of label events into versions
belief     Gaussians, one-label update    influence  no clinician carries more than a share
jumps      change detection               delays     does one kind of verdict come sooner?
filter     the fold of labels             brake      loosening is bounded per day
serving    (risk, upper risk), cuts       control    rebuild, compare, simulate
settings   every constant, with reason    state      versioned JSON
offsets    the groups' part of filter     learning   LEARN's whole fold, and its log's entries
history    any version again              soundness  what no ledger can have saved is refused
"""
