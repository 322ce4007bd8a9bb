"""What is written: against a loop of one token at a time without a cache, and against the model's own law of its next
token; neither the batch nor the order nor anything global changes it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers

from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.metrics.generation import Decoding, continue_texts, continue_tokens, prompts_of
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM, build_causal_lm
from forgetmi.models.lora import LoraOptions
from tests.tiny import VOCABULARY, tiny_causal_lm

PROMPTS = [[5, 9], [3], [7, 7, 2, 30, 11, 4], [21, 8, 1], [3], [17, 2, 2]]


def lively(seed: int = 0) -> CausalLM:
    """A tiny model that has an opinion, and one that depends on all that stands before."""
    config = {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 2,
              "n_head": 2, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}  # fmt: skip
    model = build_causal_lm({"config": config}, seed).train()
    with torch.no_grad():
        model.lm.lm_head.weight *= 25
        for name, weight in model.lm.transformer.h.named_parameters():
            if name.endswith("weight") and weight.ndim == 2:
                weight *= 12
    return model


def tokenizer() -> LMTokenizer:
    """Token n is the word ``w<n>``; 0 ends a text."""
    vocabulary = {"<end>": 0, **{f"w{n}": n for n in range(1, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<end>"])
    return LMTokenizer(backend, eos="<end>")


def next_law(model: CausalLM, ids: list[int], temperature: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature) of the token after these [V]."""
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        logits = model.eval()(tokens, torch.ones_like(tokens)).logits[0, -1].double()
    return (logits / temperature).softmax(0).numpy()


def greedy_by_hand(model: CausalLM, prompt: list[int], length: int, eos: int | None = None) -> list[int]:
    written: list[int] = []
    while len(written) < length and (token := int(next_law(model, prompt + written).argmax())) != eos:
        written.append(token)
    return written


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_greedy_is_the_likeliest_token_each_time_whatever_the_batch(batch_size: int) -> None:
    model = lively()
    found = continue_tokens(model, PROMPTS, Decoding(6), eos_id=None, seed=0, batch_size=batch_size)
    assert found == [[greedy_by_hand(model, prompt, 6)] for prompt in PROMPTS]
    assert len({tuple(tokens) for (tokens,) in found}) > 3  # the prompts are told apart


OTHERS = {
    "a sliding window": {
        "model_type": "mistral",
        "sliding_window": 4,
        "intermediate_size": 32,
        "num_key_value_heads": 1,
    },
    "no positions": {"model_type": "bloom"},
    "a state": {"model_type": "mamba", "state_size": 4},
    "blind to padding": {"model_type": "rwkv", "attention_hidden_size": 16},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_write_alike_whatever_the_batch(name: str) -> None:
    config = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **OTHERS[name]}  # fmt: skip
    model = build_causal_lm({"config": config}, 0)
    head = model.lm.get_output_embeddings().weight
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.ndim == 2 else 1
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    by_hand = [[greedy_by_hand(model, prompt, 7)] for prompt in PROMPTS]
    for batch_size in (1, 3, 32):
        assert continue_tokens(model, PROMPTS, Decoding(7), eos_id=None, seed=0, batch_size=batch_size) == by_hand
    warm = Decoding(7, temperature=1.0, samples=2)
    alone, together = (continue_tokens(model, PROMPTS, warm, eos_id=0, seed=0, batch_size=size) for size in (1, 8))
    assert alone == together


def test_the_end_ends_and_is_left_out_while_others_go_on() -> None:
    model = lively()
    endless = [tokens for (tokens,) in continue_tokens(model, PROMPTS, Decoding(8), eos_id=None, seed=0)]
    eos = endless[0][2]
    found = [tokens for (tokens,) in continue_tokens(model, PROMPTS, Decoding(8), eos_id=eos, seed=0)]
    assert found == [greedy_by_hand(model, prompt, 8, eos) for prompt in PROMPTS]
    assert len(found[0]) <= 2
    assert max(map(len, found)) == 8


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_follow_the_models_law(temperature: float) -> None:
    model, n = lively(), 4000
    decoding = Decoding(2, temperature=temperature, samples=n)
    (found,) = continue_tokens(model, [[5, 9]], decoding, eos_id=None, seed=3, batch_size=n)
    first, law = [tokens[0] for tokens in found], next_law(model, [5, 9], temperature)
    assert law.max() > 0.1
    check_law(first, law)
    # The second token: of those whose first is the most frequent one.
    top = int(np.bincount(first).argmax())
    check_law([tokens[1] for tokens in found if tokens[0] == top], next_law(model, [5, 9, top], temperature))


def check_law(drawn: list[int], law: np.ndarray) -> None:
    counts = np.bincount(drawn, minlength=len(law))
    rare = law * len(drawn) < 5
    assert counts[law == 0].sum() == 0
    seen, expected = (np.append(v[~rare], v[rare].sum()) for v in (counts, law * len(drawn)))
    kept = expected > 0
    assert stats.chisquare(seen[kept], expected[kept]).pvalue > 0.01


def test_top_p_draws_from_the_fewest_tokens_that_hold_so_much() -> None:
    model, p = lively(), 0.7
    (found,) = continue_tokens(
        model, [[7, 3]], Decoding(1, temperature=1.0, top_p=p, samples=3000), eos_id=None, seed=2, batch_size=3000
    )
    law = next_law(model, [7, 3])
    order = np.argsort(-law)
    kept = order[: int(np.searchsorted(law[order].cumsum(), p)) + 1]
    assert 1 < len(kept) < 20
    nucleus = np.zeros_like(law)
    nucleus[kept] = law[kept] / law[kept].sum()
    check_law([tokens[0] for tokens in found], nucleus)


def test_samples_depend_on_seed_place_and_sample_only() -> None:
    model = lively()
    decoding = Decoding(6, temperature=1.0, samples=3)

    def written(prompts=PROMPTS, seed=0, batch_size=32, **changes):
        how = dataclasses.replace(decoding, **changes)
        return continue_tokens(model, prompts, how, eos_id=0, seed=seed, batch_size=batch_size)

    whole = written()
    assert written(batch_size=1) == written(batch_size=5) == whole
    assert written(PROMPTS[:2]) == whole[:2]  # other prompts beside it, other padding
    assert [samples[:2] for samples in whole] == written(samples=2)  # more samples
    assert [[tokens[:3] for tokens in samples] for samples in whole] == written(max_new_tokens=3)  # more tokens
    assert whole[1] != whole[4]  # one prompt twice is drawn twice
    assert len({tuple(tokens) for tokens in whole[2]}) == 3
    assert written(seed=1) != whole


def test_nearly_cold_samples_are_greedy() -> None:
    model = lively()
    cold = continue_tokens(model, PROMPTS, Decoding(6, temperature=1e-9), eos_id=None, seed=5)
    assert cold == continue_tokens(model, PROMPTS, Decoding(6), eos_id=None, seed=0)


def test_nothing_of_the_model_or_of_the_global_generators_is_touched() -> None:
    model = lively()
    model.lm.generation_config.temperature = 0.3
    model.lm.generation_config.repetition_penalty = 5.0
    own, of_torch = model.lm.generation_config, torch.get_rng_state()
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    prompts = [list(prompt) for prompt in PROMPTS]
    plain = continue_tokens(model, prompts, Decoding(6), eos_id=0, seed=0)
    sampled = continue_tokens(model, prompts, Decoding(6, temperature=1.0), eos_id=0, seed=0)
    assert model.training and model.lm.generation_config is own and own.repetition_penalty == 5.0
    assert torch.equal(of_torch, torch.get_rng_state())
    assert (of_numpy == np.random.get_state()[1]).all()  # noqa: NPY002
    assert prompts == PROMPTS
    assert plain == continue_tokens(lively(), PROMPTS, Decoding(6), eos_id=0, seed=0)  # a penalty changes nothing
    torch.manual_seed(11)
    assert sampled == continue_tokens(lively(), PROMPTS, Decoding(6, temperature=1.0), eos_id=0, seed=0)


def test_old_settings_of_generation_in_a_models_config_are_no_obstacle() -> None:
    model = lively()
    model.lm.config.top_k = 1  # as folders of old versions have it: generate() alone refuses such a model
    assert continue_tokens(model, PROMPTS, Decoding(4), eos_id=None, seed=0) == continue_tokens(
        lively(), PROMPTS, Decoding(4), eos_id=None, seed=0
    )


def test_an_adapter_that_is_on_is_heard() -> None:
    original = lively()
    model = original.adapted(LoraOptions(r=2, alpha=64.0), seed=0)
    without = continue_tokens(original, PROMPTS, Decoding(6), eos_id=None, seed=0)
    assert continue_tokens(model, PROMPTS, Decoding(6), eos_id=None, seed=0) == without  # B = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    found = continue_tokens(model, PROMPTS, Decoding(6), eos_id=None, seed=0)
    assert found != without
    assert found == [[greedy_by_hand(model, prompt, 6)] for prompt in PROMPTS]


def test_texts_are_cut_before_the_first_stop_text() -> None:
    model, words = lively(), tokenizer()
    texts = [" ".join(f"w{n}" for n in prompt) for prompt in PROMPTS]
    whole = continue_texts(model, words, texts, Decoding(8), seed=0)
    tokens = continue_tokens(model, PROMPTS, Decoding(8), eos_id=0, seed=0)
    assert whole == [[" ".join(f"w{n}" for n in one) for one in samples] for samples in tokens]
    assert whole == continue_texts(model, words, PROMPTS, Decoding(8), seed=0)  # ids may be given instead
    written = tokens[0][0]
    stops = (f"w{written[6]}", f"w{written[3]} w{written[4]}", "never")  # the second stands first
    assert stops[0] not in whole[0][0].split()[:5]
    for batch_size in (1, 32):
        cut = continue_texts(model, words, texts, Decoding(8, stop=stops), seed=0, batch_size=batch_size)
        for (before,), (after,) in zip(whole, cut, strict=True):
            places = [before.find(stop) for stop in stops if stop in before]
            assert after == (before[: min(places)] if places else before)
        assert cut[0][0].split() == [f"w{n}" for n in written[:3]]


def test_prompts_of_records_are_what_stands_before_their_answers() -> None:
    modality = DialogueModality(tokenizer(), format="w4 {prompt} w5 ")
    values = [{"prompt": "w1 w2", "answer": "w3"}, {"prompt": "w9", "answer": "w3 w3"}]
    assert prompts_of(modality, values) == [[4, 1, 2, 5], [4, 9, 5]]
    with pytest.raises(DataError, match="before its answer") as caught:
        prompts_of(modality, [values[0], "w1 w2"])
    assert caught.value.where == "record at position 1" and "w1" not in str(caught.value)


def test_all_settings_that_are_wrong_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Decoding(0, temperature=-1.0, top_p=0.0, samples=0, stop=("",))
    assert len(caught.value.problems) == 5
    for wrong in ({"samples": 2}, {"top_p": 0.5}, {"stop": "end"}, {"temperature": float("nan")}):
        with pytest.raises(ConfigError):
            Decoding(**wrong)
    assert Decoding(5).words == "written greedily, at most 5 tokens"
    assert Decoding(5, temperature=0.9, top_p=0.95).words == (
        "written sampled at temperature 0.9, top-p 0.95, at most 5 tokens"
    )


@pytest.mark.parametrize(
    ("prompts", "length", "match"),
    [
        ([[1], []], 4, "no token"),
        ([[1], [VOCABULARY]], 4, "does not know"),
        ([[1], [-1]], 4, "does not know"),
        ([[1], [2] * 13], 4, "13 tokens and 4 new ones do not fit"),
    ],
)
def test_prompts_that_the_model_cannot_read_are_refused(prompts, length, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        continue_tokens(tiny_causal_lm(), prompts, Decoding(length), eos_id=None, seed=0)
    assert caught.value.where == "prompt at position 1"


def test_the_models_whole_length_can_be_used_and_nothing_is_nothing() -> None:
    model = lively()
    ((tokens,),) = continue_tokens(model, [[2] * 12], Decoding(4), eos_id=None, seed=0)
    assert tokens == greedy_by_hand(model, [2] * 12, 4)
    assert continue_tokens(model, [], Decoding(4), eos_id=None, seed=0) == []
    with pytest.raises(ConfigError, match="tokenizer"):
        continue_tokens(model, [[1]], Decoding(4, stop=("a",)), eos_id=None, seed=0)
    with pytest.raises(ConfigError, match="batch_size"):
        continue_tokens(model, [[1]], Decoding(4), eos_id=None, seed=0, batch_size=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_called_broken(temperature: float) -> None:
    model = lively()
    with torch.no_grad():
        model.lm.transformer.ln_f.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        continue_tokens(model, PROMPTS, Decoding(3, temperature=temperature), eos_id=None, seed=0)
    assert model.training
