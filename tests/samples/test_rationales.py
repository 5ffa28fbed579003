from hypothesis import given
from hypothesis import strategies as st

from aigq.samples.rationales import Question, asked_of, mentions, prompt_of, rationales, template

SKI = Question(("ski gloves", "wool hat", "sled"), ("snow boots", "thermal socks"))


def test_the_template_names_the_latest_behaviours_and_the_first_query():
    assert rationales([SKI], template) == ["ski gloves and wool hat, so snow boots"]


def test_what_names_no_behaviour_is_dropped_and_discovery_is_never_asked_about():
    asked = []

    def teacher(questions):
        asked.extend(questions)
        return ["They like winter.", "After Ski Gloves;; <think> comes more"][: len(questions)]

    discovery = Question((), ("milk",))
    assert rationales([discovery, SKI, SKI], teacher) == ["", "", "After Ski Gloves; think comes more"]
    assert asked == [SKI, SKI]


def test_a_language_model_is_shown_both_sides_and_its_answer_is_one_line():
    prompts = []

    def ask(texts):
        prompts.extend(texts)
        return ["Since they bought\n\n ski gloves."]

    assert asked_of(ask)([SKI]) == ["Since they bought ski gloves."]
    assert prompts == [prompt_of(SKI)]
    assert all(f'"{text}"' in prompts[0] for part in SKI for text in part)


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), st.text(min_size=1, max_size=6))
def test_a_template_always_mentions_a_behaviour(behaviours, query):
    (text,) = template([Question(tuple(behaviours), (query,))])
    assert mentions(text, behaviours)
