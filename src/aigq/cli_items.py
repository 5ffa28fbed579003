"""The verbs of item-to-text: train item-text, generate item-text."""

from aigq.cli_common import COMMON, DONE, Common, Force, Resume, show
from aigq.stages import import_if_absent, run_item_text, run_item_texts


def train_item_text(*, common: Common = COMMON, resume: Resume = False, force: Force = False) -> int:
    """Train the model that says an item in shoppers' words, and write every item.

    Then RUN/tables/item_text.parquet holds a text for every item, and the result compares the texts with the
    template on items and days that the model has not learned from. Comes before `aigq prepare`, which uses
    the texts where history.item_text is generated.
    """
    run = common.open()
    import_if_absent(run.config)
    show(run_item_text(run, resume=resume, force=force), None, as_json=common.json)
    return DONE


def generate_item_text(*, common: Common = COMMON) -> int:
    """Write texts for items that are new or have changed.

    The other items keep theirs in RUN/tables/item_text.parquet.
    """
    run = common.open()
    show(run_item_texts(run), None, as_json=common.json)
    return DONE
