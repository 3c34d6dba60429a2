"""200,000 references through the call that both libraries have: a list of `VirtualChunkSpec`."""

from __future__ import annotations

from typing import Any

from bench import references
from bench.engines import Fresh, Side, all_set
from bench.harness import Pair

COUNT = 200_000


def set_specs(session: Any, specs: list[Any]) -> None:
    all_set(session.store.set_virtual_refs("a", specs))


def make_set_commit(session: Any, side: Side) -> None:
    set_specs(session, references.make_specs(side, COUNT))
    session.commit("references")


def set_commit(session: Any, side: Side) -> None:
    set_specs(session, references.specs(side, COUNT))
    session.commit("references")


def fresh() -> Fresh:
    return Fresh.make(references.shape(COUNT), (1, 1), archive=references.ARCHIVE)


def benches() -> list[Pair]:
    def pair(name: str, run: Any) -> Pair:
        return Pair(
            name,
            ours=lambda f: run(f.sessions["ours"], "ours"),
            theirs=lambda f: run(f.sessions["theirs"], "theirs"),
            setup=fresh,
            teardown=Fresh.remove,
            count=COUNT,
            unit="references",
            at_least=5,
        )

    return [
        pair("set_virtual_refs of 200,000 specs", lambda s, side: set_specs(s, references.specs(side, COUNT))),
        pair("  and commit", set_commit),
        pair("  making the specs included", make_set_commit),
    ]
