"""Drawing lists from the model: batched, with a KV cache, without repeats, only text that may be served.

The queries that may be served form a prefix tree over tokens. At every step a row may only take a token that
continues a query of its tree and that still leads to one not yet in its list. So a finished query is never a
repeat, and text that fewer than k users issued cannot be written at all (method.md section 3).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from transformers import LogitsProcessor, PreTrainedModel

from aigq import processes
from aigq.history.prompt import clean
from aigq.models.vocabulary import Vocabulary

Day = TypeVar("Day")


@dataclass
class Node:
    """A prefix: its continuations, how many queries lie below, and which query ends here."""

    children: dict[int, "Node"] = field(default_factory=dict)
    below: int = 0
    query: int = -1
    allowed: torch.Tensor | None = None  # (children,) token ids, made once


class QueryTree:
    """The prefix tree of a set of queries.

    Queries that are written alike, such as `x` and `x;;`, are one: the plainest. A query that leaves nothing
    to write, such as `<>`, is left out.
    """

    def __init__(self, queries: Iterable[str], vocabulary: Vocabulary) -> None:
        self.root = Node()
        written: dict[str, str] = {}
        for query in sorted(queries, key=lambda query: (query != clean(query), query)):
            written.setdefault(clean(query), query)
        written.pop("", None)
        self.by_text = written  # as it is written -> the query
        self.queries = sorted(written.values())
        paths = [vocabulary.encode_query(query) for query in self.queries]
        self._lengths = sorted(map(len, paths), reverse=True)
        for number, path in enumerate(paths):
            node = self.root
            node.below += 1
            for token in path:
                node = node.children.setdefault(token, Node())
                node.below += 1
            node.query = number
        self._vocabulary, self._known = vocabulary, set(self.queries)

    def room(self, length: int) -> int:
        """Tokens of the longest list of `length` queries, without its end."""
        return sum(self._lengths[:length])

    def tokens_of(self, query: str) -> list[int]:
        """The path to a query of the tree; empty for any other text."""
        return self._vocabulary.encode_query(query) if query in self._known else []


class Trees:
    """What may be written each day: days with the same queries share a tree, kept for the next call."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.kept: dict[frozenset[str], QueryTree] = {}
        self._vocabulary = vocabulary

    def by_day(self, servable: Mapping[Day, Iterable[str]]) -> dict[Day, QueryTree]:
        """The tree of each day. Those of earlier calls are kept only where this one has the same queries."""
        queries = {day: frozenset(some) for day, some in servable.items()}
        kept, words = self.kept, self._vocabulary
        self.kept = {some: kept.get(some) or QueryTree(some, words) for some in {*queries.values()}}
        return {day: self.kept[some] for day, some in queries.items()}


class Choices(NamedTuple):
    """What a row may take next: the children of a node without `spent`, and `marks` besides."""

    node: Node | None
    spent: Sequence[int] = ()
    marks: Sequence[int] = ()


class Row(Protocol):
    """What one row of a batch has written, and what it may write next."""

    def advance(self, token: int) -> None:
        """The row has taken this token, one of its choices."""
        ...

    def finished(self) -> bool:
        """Only the end may follow."""
        ...

    def choices(self) -> Choices:
        """What may follow; asked only of rows that are not finished."""
        ...


class Asked(NamedTuple):
    """Outputs that are wanted together.

    Args:
        prompts: token ids of each.
        rows: per prompt, what makes the row that says what may be written.
        max_tokens: longest output.
        temperature: 0 is greedy; otherwise sampled from the top_k tokens.
    """

    prompts: Sequence[Sequence[int]]
    rows: Sequence[Callable[[], Row]]
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 100


Write = Callable[[Asked], list[list[int]]]
"""The tokens written after each prompt, the end and what follows it left out.

`writer` has transformers do it, models/vllm_engine.py has vLLM.
"""

DrawGroups = Callable[[PreTrainedModel, Vocabulary, Asked, int], torch.Tensor]
"""Rollouts of a policy: draw(policy, vocabulary, asked, G), each prompt G times in a row.

Tokens (P, G, T) on the CPU, the end among them, padded on the right. `sample_groups` has transformers do it,
models/vllm_engine.py has vLLM.
"""


class ListRow:
    """Where one list stands: its node, and for each node the children with nothing left to say.

    Args:
        tree: what may be written.
        length: longest list.
        without: queries of the tree that may not be written.
    """

    def __init__(self, tree: QueryTree, length: int, without: Iterable[str] = ()) -> None:
        self.tree = tree
        self.path: list[tuple[Node, int]] = []  # from the root: (node, token taken there)
        self.node = tree.root
        self.found: list[int] = []
        self.used: dict[int, int] = {}  # id of a node -> queries below it that are in the list
        self.spent: dict[int, list[int]] = {}  # id of a node -> tokens that lead only to repeats
        barred = [tokens for query in without if (tokens := tree.tokens_of(query))]
        for tokens in barred:
            for token in tokens:
                self._step(token)
            self._use_up()
        self._length = min(length, tree.root.below - len(barred))

    def advance(self, token: int) -> None:
        """One token further down the tree; at the end of a query, back to its root."""
        self._step(token)
        if self.node.query >= 0:
            self.found.append(self.node.query)
            self._use_up()

    def finished(self) -> bool:
        """The list is as long as it may be, or nothing is left to say."""
        return len(self.found) >= self._length

    def choices(self) -> Choices:
        """What continues a query that is not in the list yet."""
        return Choices(self.node, self.spent.get(id(self.node), ()))

    def queries(self) -> list[str]:
        """The finished queries, in order."""
        return [self.tree.queries[i] for i in self.found]

    def _step(self, token: int) -> None:
        self.path.append((self.node, token))
        self.node = self.node.children[token]

    def _use_up(self) -> None:
        """The query at this node cannot be written any more; back to the root."""
        for parent, taken in self.path:
            child = parent.children[taken]
            self.used[id(child)] = self.used.get(id(child), 0) + 1
            if self.used[id(child)] == child.below:
                self.spent.setdefault(id(parent), []).append(taken)
        self.path, self.node = [], self.tree.root


class RowProcessor(LogitsProcessor):
    """Keeps every row of a batch to its choices and ends it when it is finished."""

    def __init__(self, rows: Sequence[Row], end: int, prompt_width: int) -> None:
        self._rows, self._end, self._width = rows, end, prompt_width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The rows take the last tokens, then scores (B, V) are masked."""
        if input_ids.shape[1] > self._width:
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                if not row.finished():
                    row.advance(token)
        return keep_to_choices(self._rows, self._end, scores)  # type: ignore[return-value]


def keep_to_choices(rows: Sequence[Row], end: int, scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, V), minus infinity for what a row may not take: of a finished one all but the end."""
    masked = torch.full_like(scores, -torch.inf)
    at: dict[int, tuple[Node, list[int]]] = {}  # rows that stand at the same node are masked together
    marks: list[tuple[int, int]] = []
    spent: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        if row.finished():
            masked[i, end] = 0
            continue
        choices = row.choices()
        if choices.node is not None:
            at.setdefault(id(choices.node), (choices.node, []))[1].append(i)
        spent += [(i, token) for token in choices.spent]
        marks += [(i, token) for token in choices.marks]
    for node, here in at.values():
        if node.allowed is None or node.allowed.device != scores.device:
            node.allowed = torch.tensor(list(node.children), device=scores.device)
        index = torch.tensor(here, device=scores.device)[:, None]
        masked[index, node.allowed] = scores[index, node.allowed]
    if spent:
        index = torch.tensor(spent, device=scores.device)
        masked[index[:, 0], index[:, 1]] = -torch.inf
    if marks:
        index = torch.tensor(marks, device=scores.device)
        masked[index[:, 0], index[:, 1]] = scores[index[:, 0], index[:, 1]]
    return masked


@torch.no_grad()  # not inference_mode: weights that FSDP fetches there could not be trained afterwards
def generate_rows(model: PreTrainedModel, vocabulary: Vocabulary, asked: Asked) -> list[list[int]]:
    """`Write` by a model in memory: the prompts are one batch, padded on the left here."""
    ids, mask = padded(asked.prompts, vocabulary.pad)
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": asked.temperature, "top_k": asked.top_k}
        if asked.temperature > 0
        else {"do_sample": False}
    )
    rows = [row() for row in asked.rows]
    outputs = _decode(model, vocabulary, ids, mask, rows, asked.max_tokens, **sampling)
    written = outputs[:, ids.shape[1] :].tolist()
    return [out[: out.index(vocabulary.end)] if vocabulary.end in out else out for out in written]


def writer(model: PreTrainedModel, vocabulary: Vocabulary) -> Write:
    """What writes with a model in memory."""
    return partial(generate_rows, model, vocabulary)


@torch.no_grad()
def sample_groups(model: PreTrainedModel, vocabulary: Vocabulary, asked: Asked, group: int) -> torch.Tensor:
    """`DrawGroups` by the policy itself.

    The rollouts of a group share the keys and values of their prompt, which is read once. Several processes
    all take as many steps as the longest output of any: weights that are shared out are fetched together.
    """
    was_training = model.training
    model.eval()  # gradient checkpointing, where it is on, keeps no cache in training mode
    ids, mask = (tensor.to(model.device) for tensor in padded(asked.prompts[::group], vocabulary.pad))
    places = positions(mask)[:, :-1]
    prefix = model(ids[:, :-1], attention_mask=mask[:, :-1], position_ids=places, use_cache=True)
    prefix.past_key_values.batch_repeat_interleave(group)
    drawn = _decode(
        model,
        vocabulary,
        ids.repeat_interleave(group, dim=0),
        mask.repeat_interleave(group, dim=0),
        [row() for row in asked.rows],
        asked.max_tokens,
        do_sample=True,
        temperature=asked.temperature,
        top_k=asked.top_k,
        past_key_values=prefix.past_key_values,
        synced_gpus=processes.count() > 1,
    )
    model.train(was_training)
    return drawn[:, ids.shape[1] :].reshape(-1, group, drawn.shape[1] - ids.shape[1]).cpu()


def padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (P, S), padded on the left."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions (N, S) of the tokens of an attention mask, 0 at the first token that is not padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _decode(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rows: Sequence[Row],
    max_tokens: int,
    **options: Any,
) -> torch.Tensor:
    """Prompts (N, S) with what the model wrote after them (N, S + T)."""
    was_training = model.training
    model.eval()
    decoder: Any = model
    output: torch.Tensor = decoder.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_tokens,
        logits_processor=[RowProcessor(rows, vocabulary.end, ids.shape[1])],
        pad_token_id=vocabulary.pad,
        eos_token_id=vocabulary.end,
        **options,
    )
    model.train(was_training)
    return output


def generate_lists(
    write: Write,
    prompts: Sequence[Sequence[int]],
    trees: Sequence[QueryTree],
    length: int,
    *,
    without: Sequence[Iterable[str]] | None = None,
    temperature: float = 0.0,
    top_k: int = 100,
) -> list[list[str]]:
    """Lists of at most `length` distinct queries for one batch of prompts.

    Args:
        write: what writes with the model.
        prompts: token ids per row.
        trees: per row, what may be written.
        without: per row, distinct queries of the tree that may not be written.
        temperature: 0 is greedy; otherwise sampled from the top_k tokens.
    """
    barred = without or [()] * len(trees)
    rows = [partial(ListRow, tree, length, texts) for tree, texts in zip(trees, barred, strict=True)]
    outputs = write(Asked(prompts, rows, longest_list(trees, length), temperature, top_k))
    return [_read(row(), output) for row, output in zip(rows, outputs, strict=True)]


def longest_list(trees: Iterable[QueryTree], length: int) -> int:
    """Room for a list of `length` queries of any of the trees and its end, in tokens."""
    return max((tree.room(length) for tree in trees), default=0) + 1


def _read(row: ListRow, output: Sequence[int]) -> list[str]:
    """The queries of a list that its row allowed."""
    for token in output:
        row.advance(token)
    return row.queries()
