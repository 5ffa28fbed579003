"""Word lists of several languages in the guards."""

from typing import get_args

import pytest
from serving_helpers import aigq, config

from aigq.config_serving import ProfaneLanguage
from aigq.serving.guards import Guards
from aigq.serving.profanity import LANGUAGES, checker
from aigq.spelling import normalise_query

KNOWN = type("Everything", (), {"__contains__": lambda *_: True, "results": lambda *_: 9})()


def refusals(queries, **serving):
    return Guards(config(**serving).serving).refusals([normalise_query(q) for q in queries], KNOWN, own=())


@pytest.mark.parametrize(
    ("language", "profane", "clean"),
    [
        (
            "en",
            ["fuck you mug", "shit"],
            ["scunthorpe united", "assassin's creed", "bass guitar", "cocktail dress", "shiitake", "essex"],
        ),
        ("de", ["scheiße", "SCHEISSE", "arschloch tasse"], ["barsch filet", "fickmühlen spiel", "marschall"]),
        ("es", ["puta", "mierda"], ["computadora", "disputa", "reputación"]),
        ("fr", ["merde", "connard"], ["concombre", "député", "merdeka"]),
        ("ru", ["блядь"], ["скипидар", "хлеб"]),
    ],
)
def test_whole_words_are_refused_and_words_around_them_are_not(language, profane, clean):
    found = refusals([*profane, *clean], profanity=[language])
    assert found == {normalise_query(query): "profane" for query in profane}


def test_languages_add_up_and_none_is_the_default():
    words = ["arschloch", "mierda"]
    assert refusals(words) == {}
    assert refusals(words, profanity=["de"]) == {"arschloch": "profane"}
    assert refusals(words, profanity=["de", "es"]) == dict.fromkeys(words, "profane")


def test_the_allowlist_counts_over_the_lists(tmp_path):
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("sexy dress\n")
    found = refusals(["sexy dress", "sexy"], profanity=["en"], allowlist=str(allowed))
    assert found == {"sexy": "profane"}


def test_every_language_has_its_list():
    assert set(get_args(ProfaneLanguage)) == LANGUAGES.keys()
    assert all(checker([language]) is not None for language in LANGUAGES)


def test_an_unknown_language_is_wrong_use(shop_run):
    done = aigq("serve", "--run", shop_run.folder, "--set", "serving.profanity=[xx]", check=False)
    assert (done.returncode, "serving.profanity" in done.stderr) == (2, True)
