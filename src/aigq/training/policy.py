"""What the policy says about its rollouts: log-probabilities and entropies that carry gradients."""

from typing import Any

import torch
from transformers import PreTrainedModel

from aigq.models.decoding import positions


def log_probabilities(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(token) and entropy of pi at each generated token, both (P*G, T).

    A group's rollouts share the forward pass of their prompt: its keys and values are computed once and
    repeated, so a step costs P prompts and P*G lists instead of P*G of both.

    Args:
        ids: (P, S) prompts, padded on the left.
        mask: (P, S) their attention mask.
        tokens: (P, G, T) generated tokens, padded on the right.
        temperature: of the rollouts.
    """
    prompts, group, width = tokens.shape
    decoder: Any = model
    first = decoder(ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    first.past_key_values.batch_repeat_interleave(group)
    written = tokens.reshape(prompts * group, width)
    seen = torch.cat([mask.repeat_interleave(group, dim=0), torch.ones_like(written[:, :-1])], dim=1)
    rest = decoder(
        written[:, :-1],
        attention_mask=seen,
        position_ids=positions(seen)[:, ids.shape[1] :],
        past_key_values=first.past_key_values,
        use_cache=True,
    )
    logits = torch.cat([first.logits.repeat_interleave(group, dim=0), rest.logits], dim=1)  # (P*G, T, V)
    logp = torch.log_softmax(logits.float() / temperature, dim=2)
    entropy = -(logp.exp() * logp).sum(dim=2)
    return logp.gather(2, written.unsqueeze(2)).squeeze(2), entropy
