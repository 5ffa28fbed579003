"""The verb erase-user."""

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

from cyclopts import Parameter

from aigq.cli_common import COMMON, DONE, FAILED, Common, show
from aigq.cli_serving import LogUrl, StoreUrl
from aigq.errors import UsageError


def erase_user(
    user: Annotated[str, Parameter(help="The id, as the shop's log has it.")],
    *,
    common: Common = COMMON,
    store: StoreUrl = None,
    log: LogUrl = None,
) -> int:
    """Remove a user from tables, run, store and log, and scan every file and key for the id.

    The next import, preparation and training leave the user out. Exit code 1 where the id is still found.
    """
    from aigq.erasure.erase import erase
    from aigq.serving.server import default_urls
    from aigq.serving.stores import need_store
    from aigq.serving.streams import need_log

    name = user.strip()
    if not name:
        raise UsageError("give the id of a user")
    if store is not None:  # those of the run itself need not be there
        need_store(store)
    if log is not None:
        need_log(log)
    run = common.open()
    default_store, default_log = default_urls(run.folder)
    with run.alone(), redirect_stdout(sys.stderr):
        result = erase(run, name, store or default_store, log or default_log)
    if common.json:
        show(result, None, as_json=True)
    else:
        print("\n".join(_lines(result)))
    return FAILED if result["found"] else DONE


def _lines(result: dict[str, Any]) -> list[str]:
    """What was done, a line a place; without the id, which must not stay in a terminal's log either."""
    lines = [f"removed {n:,} from {place}" for place, n in result["removed"].items()]
    lines += ["found nowhere; on the list of erased users all the same"] if not lines else []
    lines += [f"removed {place}, which is made again when it is needed" for place in result["caches"]]
    lines += [
        f"{stage} was trained with rows of an erased user, and is trained again by the next `aigq table`"
        for stage in result["outdated"]
    ]
    looks = ", ".join(f"{n:,} {what}" for what, n in result["scanned"].items())
    lines += [f"still found in {place}" for place in result["found"]]
    verdict = "the id is still there, see above" if result["found"] else "the id is nowhere"
    return [*lines, f"scanned {looks} ({result['sought_in']}): {verdict}"]
