"""Log records reach whatever shows them, and never interrupt the work."""

from __future__ import annotations

import logging

import pytest

from bench.process.console import shown


def test_records_of_the_suite_are_shown_inside_the_block_only() -> None:
    said: list[str] = []
    logger = logging.getLogger("bench.somewhere")
    with shown(said.append):
        logger.info("step %d", 3)
        logger.warning("100 % of it")
        logging.getLogger("methods.own").error("no")
        logging.getLogger("transformers").warning("chatter")
        logger.debug("details")
    logger.warning("afterwards")
    assert said == ["step 3", "warning: 100 % of it", "error: no"]


def test_the_inner_display_takes_over_from_the_outer_one() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with shown(outer.append):
        with shown(inner.append):
            logging.getLogger("bench").info("x")
        logging.getLogger("bench").info("y")
    assert (outer, inner) == (["y"], ["x"])


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError("I/O operation on closed file"), KeyError])
def test_a_display_that_fails_stops_nothing(error: type[Exception] | Exception) -> None:
    def show(text: str) -> None:
        raise error

    with shown(show):
        logging.getLogger("bench").warning("x")
