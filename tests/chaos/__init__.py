"""The real stream on a real broker while things break: `python -m tests.chaos --help`.

company    workers in processes of their own, kept alive as a supervisor would
proxy      a TCP proxy before the broker that cuts and delays
faults     what is done to them, one function a fault
run        one run: feed, strike, heal, wait for rest, count, ask the oracle
"""
