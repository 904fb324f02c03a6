"""The online calibrator: `estimator` for river, `ledger` for LEARN, `serving` for SCORE.

basis      raw logit to features          settings   every constant, with its reason
belief     Gaussians, one-label update    state      versioned JSON
jumps      change detection               serving    (risk, upper risk), cuts
filter     the fold of labels             ledger     the fold of label events into versions
"""
