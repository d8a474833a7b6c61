"""Real consumers, each in an environment of its own, judge what we write: `make clients`.

`python -m tests.clients.run [CLIENT ...]`. One line for each case: how far the client strays from Meta's own
model, in spreads of the logits, and how far it may. Spoilt files are the controls: there the client must fail.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from tests.clients.cases import Case, every
from tests.clients.environments import CLIENTS, set_up
from tests.clients.workshop import Workshop


def main() -> None:
    parser = argparse.ArgumentParser(description="Let real consumers judge the converted files.")
    parser.add_argument("client", nargs="*", choices=CLIENTS, default=list(CLIENTS), help="default: all")
    wanted = parser.parse_args().client
    with tempfile.TemporaryDirectory(prefix="clients-") as root:
        bad = judged([case for case in every() if case.client in wanted], Workshop(Path(root)))
    sys.exit(f"{bad} cases failed" if bad else 0)


def judged(cases: Iterable[Case], shop: Workshop) -> int:
    """Print a line for every case; how many went wrong. A client that cannot be installed counts as one."""
    bad = 0
    for client, group in groupby(cases, key=lambda case: case.client):
        try:
            set_up(CLIENTS[client])
        except RuntimeError as error:
            report(False, client, "installing", str(error))
            bad += 1
            continue
        for case in group:
            good, said = verdict(case, shop)
            report(good, client, case.name, said)
            bad += not good
    return bad


def report(good: bool, client: str, name: str, said: str) -> None:
    print(f"{'ok  ' if good else 'FAIL'}  {client:18}  {name:32}  {said}", flush=True)


def verdict(case: Case, shop: Workshop) -> tuple[bool, str]:
    """Whether all is as it should be, and the words; a control is right where the client fails it by its figures.

    A client or a conversion that breaks down is wrong in either case.
    """
    try:
        outcome = case.judged(shop)
    except RuntimeError as error:
        return False, str(error)
    if case.files.fault is None:
        return outcome.passed, outcome.said
    return not outcome.passed, f"{outcome.said}  (control: {'NOT SEEN' if outcome.passed else 'seen'})"


if __name__ == "__main__":
    main()
