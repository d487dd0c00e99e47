"""The benchmark: every rival in the same run, ratios rather than rates, start-up apart from steady state.

One file a part (`decode`, `model`, `feed`, `job`, `plan`, `gpu`); each takes a `Setting` and returns `Part`.
Rivals are installed by `make bench` and are no dependency of the library.
"""
