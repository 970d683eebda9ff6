"""The same small scripts with Ray Tune and with this library; their outcomes are compared.

What Ray Tune 2.60 did is in `recorded/`, reviewed; `python -m tests.differential.record` records it
again. A difference that is on purpose is declared beside its script. All others fail the suite.
"""
