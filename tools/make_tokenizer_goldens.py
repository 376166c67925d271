#!/usr/bin/env python3
"""Writes tests/data/text/*.txt: tiny vocabularies, and how Hugging Face `tokenizers` and `sentencepiece` encode
with them. Needs both packages; the tests that read the files need neither.

A file is lines of words: `bool|int|str|bytes KEY VALUE` (metadata of the model file), `token TYPE SCORE HEX`,
`merge LEFT RIGHT` (ids), `text HEX`, `family NAME` (of pre-tokenizers, or what the file is about), and below it one
`ids ...` for each text. The vocabularies are trained here on the text below.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "text"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TEXTS_PER_FILE = 220

CORPUS = """
The river rises in the hills above the town and runs past the mill, the school and the old stone bridge. In spring it
is brown and loud; in August you could walk across and not wet your knees. It's said that nobody's ever caught a fish
here, but they'll tell you they've tried, and I'm sure you'd try it too. 1984, 2001, 12345, 3.14159, 100,000.
Der Fluss entspringt in den Hügeln über der Stadt; früher trieb er eine Mühle. Größe: 42 m, Straße 7.
La rivière naît dans les collines, passe l'école et le vieux pont, et l'été on la traverse à pied sec.
Река берёт начало в холмах над городом и течёт мимо мельницы. Весной она бурая и шумная.
川は町の上の丘から流れ出し、水車小屋と学校と古い石橋のそばを通ります。春には茶色く濁ります。
这条河发源于城镇上方的山丘，流过磨坊、学校和古老的石桥。。강은 마을 위의 언덕에서 시작됩니다。
def flow(rate, hours):
    # litres in `hours`
    total = 0
    for hour in range(hours):
        total += rate * 3600 if hour % 2 == 0 else rate * 1800
    return {"total": total, "rate": rate}
int main(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) printf("%d: %s\\n", i, argv[i]);
  return 0;
}
"""

FRAGMENTS = [
    *("'s", "'T", "'re", "'LL", "'\u017f", "'d", "don't", "IT'S", "they've", "X'Y", "''"),
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", " " * 17),
    *("1", "12", "123", "1234", "12345678", "3.14", "1,000", "\u0663\u0664", "\u2167", "\u00b2", "\u00bd"),
    *("river", "The", "Mühle", "ÉTÉ", "camelCase", "HTTPServer", "snake_case", "naïve", "река", "МГУ", "\u01c5ep"),
    *(
        "川",
        "学校",
        "カタカナ",
        "ひらがな",
        "这条河",
        "마을",
        "ไทย",
        "हिन्दी",
        "العربية",
        "עברית",
        "e\u0301",
        "u\u0308\u0323",
        "\u1112\u1161\u11ab",
        "\u212b",
        "ﬁ",
        "ﷺ",
    ),
    *("👍", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "©", "→", "∑", "…", "“”", "，", "。", "「」"),
    *("==", "!=", "/*", "*/", "//\n", "{}", "();", "#", "$x", "`", "~", "^", "\\n", "<a>", "</a>", "@", "a/b"),
    *("<s>", "</s>", "<unk>", "<|end|>", "<0x41>", "\u2581", "\u2581\u2581", "\x00", "\x7f", "\ufffd", "\U0010ffff"),
]

CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN35 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ONE_OTHER = r"[^\r\n\p{L}\p{N}]?"
CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
O200K = (
    f"{ONE_OTHER}{UPPER}*{LOWER}+{CONTRACTION}?|{ONE_OTHER}{UPPER}+{LOWER}*{CONTRACTION}?|" r"\p{N}{1,3}|" + CASED_TAIL
)
TEKKEN = f"{ONE_OTHER}{UPPER}*{LOWER}+|{ONE_OTHER}{UPPER}+{LOWER}*|" r"\p{N}|" + CASED_TAIL
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|" + TAIL
)


def splits(*patterns: str) -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
# name of a pre-tokenizer -> (what its publishers put into tokenizer.json, ignore_merges)
FAMILIES: dict[str, tuple[list[pre_tokenizers.PreTokenizer], bool]] = {
    "gpt-2": ([GPT2], False),
    "smollm": ([DIGITS, GPT2], False),
    "llama-bpe": ([*splits(CL100K), BYTES_ONLY], True),
    "qwen2": ([*splits(CL100K.replace("{1,3}", "")), BYTES_ONLY], False),
    "qwen35": ([*splits(QWEN35), BYTES_ONLY], False),
    "gpt-4o": ([*splits(O200K), BYTES_ONLY], False),
    "tekken": ([*splits(TEKKEN), BYTES_ONLY], True),
    "deepseek-coder": (
        [
            *splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
            DIGITS,
            BYTES_ONLY,
        ],
        False,
    ),
    "deepseek-v3": (
        [*splits(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3), BYTES_ONLY],
        False,
    ),
}

NFC_FAMILIES = ("qwen2", "qwen35")


def random_texts(seed: int) -> list[str]:
    """Every fragment once, and random mixtures of fragments, characters of every category, and ASCII."""
    rng = random.Random(seed)
    categories: dict[str, list[str]] = {}
    for codepoint in range(0x110000):
        character = chr(codepoint)
        category = unicodedata.category(character)
        if category not in ("Cn", "Cs", "Co"):
            categories.setdefault(category, []).append(character)
    names = sorted(categories)

    def any_character() -> str:
        return rng.choice(categories[rng.choice(names)])

    def mixture() -> str:
        sources: list[Callable[[], str]] = [
            lambda: rng.choice(FRAGMENTS),
            lambda: rng.choice(FRAGMENTS),
            any_character,
            lambda: chr(rng.randrange(128)),
        ]
        return "".join(rng.choice(sources)() for _ in range(rng.randint(1, 9)))

    texts = ["", *FRAGMENTS, *(line for line in CORPUS.split("\n") if line)]
    while len(texts) < TEXTS_PER_FILE:
        texts.append(mixture())
    return texts


def write(name: str, head: Iterable[str], texts: list[str], families: dict[str, list[list[int]]]) -> None:
    lines = [*head, *(f"text {text.encode().hex()}".rstrip() for text in texts)]
    for family, encoded in families.items():
        lines += [f"family {family}", *(" ".join(["ids", *map(str, ids)]) for ids in encoded)]
    (OUTPUT / name).write_text("\n".join(lines) + "\n", encoding="ascii")


def token_line(kind: int, score: float, text: str) -> str:
    return f"token {kind} {score:.9g} {text.encode().hex()}"


def make_byte_bpe() -> None:
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = GPT2
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<|end|>"],
        show_progress=False,
    )
    base.train_from_iterator(CORPUS.split("\n"), trainer)
    vocab = base.get_vocab()
    merges = [tuple(merge) for merge in json.loads(base.to_str())["model"]["merges"]]
    texts = random_texts(1)
    families = {}
    for family, (steps, ignore_merges) in FAMILIES.items():
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        if family in NFC_FAMILIES:
            tokenizer.normalizer = normalizers.NFC()
        families[family] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    by_id = sorted(vocab, key=lambda text: vocab[text])
    head = ["str tokenizer.ggml.model gpt2", "int tokenizer.ggml.bos_token_id 0", "int tokenizer.ggml.eos_token_id 1"]
    head += [token_line(CONTROL if text in ("<s>", "<|end|>") else NORMAL, 0, text) for text in by_id]
    head += [f"merge {vocab[left]} {vocab[right]}" for left, right in merges]
    write("byte_bpe.txt", head, texts, families)


def train_sentencepiece(**options: object) -> spm_proto.ModelProto:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.split("\n")),
        model_writer=model,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return spm_proto.ModelProto.FromString(model.getvalue())


def sentencepiece_head(proto: spm_proto.ModelProto, model: str) -> list[str]:
    normalizer = proto.normalizer_spec
    head = [
        f"str tokenizer.ggml.model {model}",
        f"bool tokenizer.ggml.add_space_prefix {int(normalizer.add_dummy_prefix)}",
        f"bool tokenizer.ggml.remove_extra_whitespaces {int(normalizer.remove_extra_whitespaces)}",
        "int tokenizer.ggml.unknown_token_id 0",
        "int tokenizer.ggml.bos_token_id 1",
        "int tokenizer.ggml.eos_token_id 2",
    ]
    if normalizer.precompiled_charsmap:
        head.append(f"bytes tokenizer.ggml.precompiled_charsmap {normalizer.precompiled_charsmap.hex()}")
    kinds = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 5: UNUSED, 6: BYTE}
    return head + [token_line(kinds[piece.type], piece.score, piece.piece) for piece in proto.pieces]


def encode_all(proto: spm_proto.ModelProto, texts: list[str]) -> list[list[int]]:
    processor = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return [processor.encode(text) for text in texts]


def make_spm() -> None:
    proto = train_sentencepiece(
        model_type="bpe",
        vocab_size=560,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
    )
    # some steps of merging may be pieces that must not come out
    for piece in [piece for piece in proto.pieces if piece.type == 1 and len(piece.piece) == 3][::4]:
        piece.type = spm_proto.ModelProto.SentencePiece.Type.UNUSED
    texts = random_texts(2)
    write("spm.txt", sentencepiece_head(proto, "llama"), texts, {"sentencepiece": encode_all(proto, texts)})
    make_gemma_like(proto)


def make_gemma_like(proto: spm_proto.ModelProto) -> None:
    """The same pieces as Hugging Face uses Gemma's: no space in front, runs of spaces and of newlines as tokens."""
    runs = ["\n", "\n\n", "  ", "   ", "</a>"]
    tokens = [(piece.type, piece.score, piece.piece) for piece in proto.pieces]
    tokens = [(NORMAL if kind == UNUSED else kind, score, text) for kind, score, text in tokens if text not in runs]
    tokens += [(USER_DEFINED, -1000.0, text) for text in runs]
    ids = {text: index for index, (_, _, text) in enumerate(tokens)}
    normal = {text: score for kind, score, text in tokens if kind == NORMAL}
    merges = [
        (score, (text[:cut], text[cut:]))
        for text, score in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    merges.sort(key=lambda item: -item[0])
    model = models.BPE(
        vocab=ids, merges=[pair for _, pair in merges], byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in runs])
    texts = random_texts(3)
    head = [
        "str tokenizer.ggml.model llama",
        "bool tokenizer.ggml.add_space_prefix 0",
        "int tokenizer.ggml.unknown_token_id 0",
        "int tokenizer.ggml.bos_token_id 1",
        "int tokenizer.ggml.eos_token_id 2",
        *(token_line(kind, score, text) for kind, score, text in tokens),
    ]
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    write("gemma_like.txt", head, texts, {"tokenizers": encoded})


def make_unigram() -> None:
    rules = [
        ("\ufb01", "fi"),
        ("\u3000", " "),
        ("\t", " "),
        ("\n", " "),
        ("\u2026", "..."),
        ("e\u0301", "\u00e9"),
        ("\u200d", ""),
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        for source, target in rules:
            columns = [" ".join(f"{ord(c):X}" for c in text) for text in (source, target)]
            table.write("\t".join(columns) + "\n")
        table.flush()
        proto = train_sentencepiece(
            model_type="unigram",
            vocab_size=480,
            normalization_rule_tsv=table.name,
            remove_extra_whitespaces=True,
            character_coverage=0.98,
        )
    texts = random_texts(4)
    head = sentencepiece_head(proto, "t5")
    write("unigram.txt", head, texts, {"sentencepiece": encode_all(proto, texts)})


def main() -> int:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    make_byte_bpe()
    make_spm()
    make_unigram()
    return 0


if __name__ == "__main__":
    sys.exit(main())
