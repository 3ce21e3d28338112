"""Make the embedded base model and its tokenizer: `python tools/make_base.py [--out DIR]`.

A few minutes on one core. The model is a half-million-parameter Llama that has read unlabelled text of three kinds:
notes alone (long, of a stronger topic), prompts followed by more words of the same note, and prompts followed by a
*random* answer. So it knows which words go together and that an answer comes next, and
nothing about which one. Everything is seeded. The tokenizer's subwords come from the running Python's own
documentation and sums depend on the machine, so the shipped files are the reference, not a second run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.notes.world import NOTE_TASKS, TOPIC_COUNT, note_world, vocabulary

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

OUT = Path(__file__).resolve().parent.parent / "bench" / "model" / "embedded"
SEED = 0
VOCABULARY_SIZE = 1536
STEPS, LEARNING_RATE, WARM_UP = 1000, 4e-3, 100
ALONE, CONTINUED = 0.5, 0.2  # shares of the batches; the rest are prompts with a random answer
ALONE_WORDS, ALONE_STRENGTH, CONTINUED_WORDS = 32, 0.5, 32
MODEL: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,  # a tied head would make the answer rows word embeddings
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SPECIAL = ("<unk>", "<s>", "</s>")
SPACE = "\u2581"  # how sentencepiece writes a leading space
LETTERS = "ABCDE"
ANSWERS = {"two": "AB", "four": "ABCD", "bool": ("False", "True")}
COMMON = """
the of and to in is that it for as was with be by on not he his but at are this have from or had an they which
one you were all her she there would their we him been has when who will no more if out so said what up its
about into than them can only other some could these two may then do first any my now such like our over me even
most made after also did many off before must through years where much your way well down should because each
just those how too good very make world still see men work long here between being under never same another
while last might us great go come since against right came take used himself few during without again place
around however home small found thought went say part once general high upon every does got number until always
away something fact less though put almost enough far took yet better four five six seven eight nine ten both
often near along best following above below called using become known show need next Why How What Which When
Where Who The This That These They There It In On At An As For From To By If Some All Most Many One Two Both He
She We You His Her Its No Not But And Or After Before During Because
""".split()


def make_tokenizer() -> Tokenizer:
    """A Llama-style tokenizer that spends the fewest pieces: bytes, the notes' words, the prompts' words, English.

    Each piece has (nearly) the same score, so the best segmentation is the one with the fewest pieces; the earlier
    piece wins a tie. Any text encodes, character by character or, outside ASCII, byte by byte.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    whole = [SPACE + word for word in (*vocabulary(), *_prompt_words(), *COMMON)]
    characters = [chr(code) for code in range(0x20 + 1, 0x7F)] + [SPACE]
    pieces = list(dict.fromkeys(whole + characters))
    size = VOCABULARY_SIZE - len(SPECIAL) - 256
    pieces += [piece for piece in _learn_subwords(set(pieces)) if piece not in set(pieces)][: size - len(pieces)]
    if len(pieces) != size:
        raise ValueError(f"{len(pieces)} pieces where {size} were wanted")
    # Last resort: a text that reads "<0x41>" is six characters, not the byte.
    raw = [(f"<0x{byte:02X}>", -100.0) for byte in range(256)]
    scored = [(piece, -1.0 - 1e-4 * rank) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram([(name, -100.0) for name in SPECIAL] + raw + scored, 0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # a piece never spans two words
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def make_model(tokenizer: Tokenizer, seed: int = SEED, steps: int = STEPS) -> torch.nn.Module:
    """Pretrain by next-token loss, mean over all tokens: AdamW, short warm-up, linear decay to zero."""
    import torch
    from tqdm import tqdm
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **MODEL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, 1 - step / steps))
    for batch in tqdm(unlabelled(random.Random(seed), steps), desc="pretraining", total=steps, mininterval=2):
        # A batch holds one form only: all its texts have the same number of tokens, so none is padded.
        ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(batch)])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    trained: torch.nn.Module = model
    return trained


def unlabelled(rng: random.Random, steps: int) -> Iterator[list[str]]:
    """Batches of texts of one kind and form. Topics are drawn afresh, and answers have nothing to do with them."""
    world = note_world()
    alone = dataclasses.replace(world, length=ALONE_WORDS, strength=ALONE_STRENGTH)
    longer = dataclasses.replace(world, length=world.length + CONTINUED_WORDS)
    topics = [range(TOPIC_COUNT)]
    for step in range(steps):
        task = NOTE_TASKS[step % len(NOTE_TASKS)]
        answers = ANSWERS[task.form]
        kind = rng.random()
        if kind < ALONE:
            yield [" ".join(alone.draw(rng, topics)[0]) for _ in range(64)]
        elif kind < ALONE + CONTINUED:
            notes = [longer.draw(rng, topics)[0] for _ in range(40)]
            yield [f"{task.prompt(note[: world.length])} {' '.join(note[world.length :])}" for note in notes]
        else:
            prompts = (task.prompt(world.draw(rng, topics)[0]) for _ in range(64))
            yield [f"{prompt} {answers[int(rng.random() * len(answers))]}" for prompt in prompts]


def write(out: Path, tokenizer: Tokenizer, model: torch.nn.Module) -> None:
    """The four files that `AutoTokenizer` and `AutoModelForCausalLM` load; weights in float16."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL["max_position_embeddings"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    settings = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16"}
    settings |= {"vocab_size": tokenizer.get_vocab_size(), "hidden_act": "silu", "rope_theta": 10000.0} | MODEL
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _prompt_words() -> list[str]:
    """The words of the prompts with and without their punctuation, and the answers."""
    text = " ".join(task.prompt(()) for task in NOTE_TASKS).split()
    bare = [word.rstrip(".:?") for word in text]
    return [*text, *bare, *LETTERS, *(f"{letter}." for letter in LETTERS), "True", "False"]


def _learn_subwords(known: set[str]) -> list[str]:
    """English subwords, most useful first: byte-pair merges over the words of Python's documentation.

    A word counts by the square root of its frequency, so that programming terms do not take all the room; words that
    are pieces already are left out.
    """
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, models, trainers

    counts = Counter(re.findall(r"[A-Za-z][a-z]+", " ".join(topics[key] for key in sorted(topics))))
    words = [SPACE + word for word in sorted(counts) for _ in range(round(math.sqrt(counts[word])))]
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=4096, show_progress=False)
    learner.train_from_iterator((word for word in words if word not in known), trainer)
    return sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the embedded base model and its tokenizer.")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    write(options.out, tokenizer, make_model(tokenizer, options.seed))


if __name__ == "__main__":
    main()
