"""Lets children that are forked off a process with Prefect end cleanly.

The failure, with Prefect 3.8: (1) something is logged or emitted, so one of Prefect's services starts, and registers
its end with `threading`; (2) a child is forked, by `multiprocessing` or a data loader; Prefect resets it in the child,
since its thread is not there; (3) the child ends, `threading` calls the service's end, which finds that it was reset
and raises an AssertionError; (4) the child's exit code is 1, and nothing is printed.
"""

from __future__ import annotations

import os

from tune_core.engine.prefect_private import end_services_in_fork, resets_services_in_forks

_is_registered = False


def end_forks_well() -> None:
    """Have forked children of this process skip the end of Prefect's services, which have no thread in them.

    Does nothing under a release of Prefect that resets its services otherwise: there children end as Prefect has it.
    """
    global _is_registered  # noqa: PLW0603 - a hook stays for as long as the process
    if _is_registered or not resets_services_in_forks():
        return
    _is_registered = True
    os.register_at_fork(
        after_in_child=end_services_in_fork
    )  # after Prefect's own hook, which was registered first
