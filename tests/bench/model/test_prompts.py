"""Plain and chat prompts: what is tokenised, where the answer starts, what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from tiny import CPU, LETTERS, PROMPTS, byte_level, examples, lora, metaspace
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.errors import ModelNotUsable
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.prompts import before_answer, frame, rendered
from bench.plan.base_model import choose_model
from bench.specs import to_json

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
STRICT = "{% if messages | length %}{{ raise_exception('no users here') }}{% endif %}"


def chatty(template: str | None, tokenizer: PreTrainedTokenizerFast | None = None) -> PreTrainedTokenizerFast:
    found = tokenizer or byte_level("<s>")
    found.chat_template = template
    return found


def test_a_plain_prompt_is_left_alone() -> None:
    assert rendered(chatty(CHATML), ["Which? Answer:", ""], "plain", "m") == ["Which? Answer:", ""]
    assert before_answer(chatty(None), "plain", "m") == ("Answer:", (" ", ""))


def test_a_chat_prompt_is_one_turn_of_the_template_up_to_the_answer_without_thinking() -> None:
    assert rendered(chatty(CHATML), ["Which?"], "chat", "m") == [
        "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n<think></think>"
    ]
    assert rendered(chatty(INST), ["Which?"], "chat", "m") == ["<s>[INST] Which? [/INST]"]


@pytest.mark.parametrize(("template", "space"), [(CHATML, ""), (INST, " ")], ids=["bare", "blank"])
def test_the_answer_tokens_are_those_that_the_template_starts_an_answer_with(template: str, space: str) -> None:
    tokenizer, answers = chatty(template), LETTERS[:4]
    assert before_answer(tokenizer, "chat", "m")[1][0] == space
    ids = answer_tokens(tokenizer, answers, "m", "chat")
    assert [tokenizer.decode(token) for token in ids] == [space + answer for answer in answers]
    assert answer_tokens(tokenizer, answers, "m") == answer_tokens(chatty(None), answers, "m")


@pytest.mark.parametrize("template", [None, ""])
def test_a_tokenizer_without_a_template_is_refused(template: str | None) -> None:
    with pytest.raises(ModelNotUsable, match='The tokenizer of m has no chat template: use prompt = "plain"'):
        answer_tokens(chatty(template), ("A", "B"), "m", "chat")


def test_a_template_that_fails_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match=r"The chat template of m fails .*no users here"):
        rendered(chatty(STRICT), ["Which?"], "chat", "m")


def test_answers_that_are_no_single_tokens_after_the_template_are_refused() -> None:
    with pytest.raises(ValueError, match="one distinct token after its chat template"):
        answer_tokens(chatty(CHATML, metaspace("always")), ("Zebra", "Quagga"), "m", "chat")


def chat_model(llama: Path, folder: Path) -> ChoiceModel:
    shutil.copytree(llama, folder)
    chatty(CHATML).save_pretrained(folder)
    return load_model(dataclasses.replace(lora(), prompt="chat"), folder, CPU)


def test_a_model_reads_the_turn_and_answers_after_it(llama: Path, tmp_path: Path) -> None:
    model = chat_model(llama, tmp_path / "m")
    model.prepare(LETTERS[:2], seed=1)
    encoded = model.encode(examples(), 320)
    texts = rendered(model.tokenizer, PROMPTS, "chat", "m")
    assert [list(ids) for ids in encoded.tokens] == [
        model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts
    ]
    assert encoded.facts == {"truncated": 0, "cue_lost": 0}
    logits = model.logits(encoded.batch([0]))
    whole = model.tokenizer(texts[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = list(answer_tokens(model.tokenizer, LETTERS[:2], "m", "chat"))
    untouched = AutoModelForCausalLM.from_pretrained(llama)
    hidden = untouched.model(input_ids=whole).last_hidden_state[0, -1].detach()
    torch.testing.assert_close(logits[0], untouched.lm_head.weight.detach()[ids] @ hidden, rtol=1e-4, atol=1e-5)


def test_a_cut_turn_always_loses_its_cue(llama: Path, tmp_path: Path) -> None:
    cut = chat_model(llama, tmp_path / "m").encode(examples(["Is it so", "Is it not"]), 8)
    assert cut.facts == {"truncated": 2, "cue_lost": 2}


def test_the_form_is_chosen_with_the_model_and_part_of_its_spec_alone_if_it_is_not_plain() -> None:
    plain, chat = choose_model({})[0], choose_model({"prompt": "chat"})[0]
    assert (plain.prompt, chat.prompt) == ("plain", "chat")
    assert "prompt" not in to_json(plain) and to_json(chat) == {**to_json(plain), "prompt": "chat"}
    with pytest.raises(ValueError, match=r"model\.prompt is 'chats'. Did you mean 'chat'"):
        choose_model({"prompt": "chats"})


PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
DEAF = "{% for m in messages %}{{ m['role'] }}:\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
DATED = "Today is {{ strftime_now('%d %b %Y') }}. " + CHATML
HEADLESS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def test_a_template_that_reads_parts_of_a_message_gets_parts() -> None:
    assert rendered(chatty(PARTS), ["Which?", "Why?"], "chat", "m") == [
        "user: Which? assistant: ", "user: Why? assistant: ",
    ]  # fmt: skip
    assert before_answer(chatty(PARTS), "chat", "m") == ("user: Answer: assistant: ", ("", " "))


def test_a_template_that_fails_on_a_text_gets_parts() -> None:
    strict = "{{ messages[0]['content'][0]['text'].strip() }}{% if add_generation_prompt %} A:{% endif %}"
    assert rendered(chatty(strict), ["Which?"], "chat", "m") == ["Which? A:"]


def test_a_template_that_leaves_the_prompt_out_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match="The chat template of m leaves out what the user says"):
        rendered(chatty(DEAF), ["Which?"], "chat", "m")


def test_a_prompt_does_not_depend_on_the_day() -> None:
    (text,) = rendered(chatty(DATED), ["Which?"], "chat", "m")
    assert text.startswith("Today is 26 Jul 2024. <|im_start|>user\nWhich?")
    around = frame(chatty(DATED), "m")
    assert around.before + "Which?" + around.after == text and not around.strips
    assert frame(chatty(DATED.replace("m['content']", "m['content'] | trim")), "m") == around._replace(strips=True)
    from transformers.utils import chat_template_utils

    assert chat_template_utils.datetime.now().year > 2024, "the clock goes on outside of templates"


def test_a_template_that_does_not_open_the_answers_turn_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match=r"of m does not open the assistant's turn \(it ignores add_generation"):
        before_answer(chatty(HEADLESS), "chat", "m")
    for template in (CHATML, INST, PARTS, DATED):
        before_answer(chatty(template), "chat", "m")
