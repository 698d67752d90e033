# %% [markdown]
# # From a few lines of yours to a matrix of language pairs
#
# This notebook trains a small encoder on questions and answers in three languages, in about a minute on two
# cores, without a network. It measures every pair of languages before and after.

# %% [markdown]
# ## The data are dicts
#
# An example is a question and the passage that answers it, each in one or several languages. A list of
# dicts, a `datasets.Dataset` and a data frame all work.

# %%
import hbt_dist as hbt

COUNTRIES = """
Finland Suomi Finnland Helsinki | Sweden Ruotsi Schweden Stockholm | Norway Norja Norwegen Oslo
Denmark Tanska Dänemark Copenhagen | Estonia Viro Estland Tallinn | Latvia Latvia Lettland Riga
Lithuania Liettua Litauen Vilnius | Poland Puola Polen Warsaw | Germany Saksa Deutschland Berlin
Austria Itävalta Österreich Vienna | Hungary Unkari Ungarn Budapest | Italy Italia Italien Rome
Spain Espanja Spanien Madrid | Portugal Portugali Portugal Lisbon | France Ranska Frankreich Paris
Belgium Belgia Belgien Brussels | Greece Kreikka Griechenland Athens | Turkey Turkki Türkei Ankara
Russia Venäjä Russland Moscow | Ukraine Ukraina Ukraine Kyiv | Romania Romania Rumänien Bucharest
Bulgaria Bulgaria Bulgarien Sofia | Croatia Kroatia Kroatien Zagreb | Ireland Irlanti Irland Dublin
"""
TABLE = [row.split() for line in COUNTRIES.strip().splitlines() for row in line.split(" | ")]
LANGUAGES = ["en", "fi", "de"]
QUESTIONS = ["Which city governs {}?", "Mikä kaupunki hallitsee: {}?", "Welche Stadt regiert {}?"]
ANSWERS = ["{}: the capital is {}.", "{}: pääkaupunki on {}.", "{}: die Hauptstadt ist {}."]


def in_each_language(patterns, names, *more):
    """Return the patterns with the country's name in each language."""
    return {
        code: pattern.format(name, *more)
        for code, pattern, name in zip(LANGUAGES, patterns, names, strict=True)
    }


rows = [
    {
        "question": in_each_language(QUESTIONS, names),
        "passage": in_each_language(ANSWERS, names, city),
    }
    for *names, city in TABLE
]
rows[0]

# %% [markdown]
# ## A benchmark is a folder with two files
#
# Its questions use other words than the training data. The same id in several languages is one text in
# translation.

# %%
import json
from pathlib import Path

ASKED = ["capital of {}", "pääkaupunki, jonka maa on {}", "Hauptstadt von {}"]
bench = Path("capitals")
bench.mkdir(exist_ok=True)
questions, candidates = [], []
for *names, city in TABLE:
    for code, text in in_each_language(ASKED, names).items():
        questions.append({"id": f"q-{city}", "language": code, "text": text, "relevant": [city]})
    for code, text in in_each_language(ANSWERS, names, city).items():
        candidates.append({"id": city, "language": code, "text": text})
for file, lines in {"questions.jsonl": questions, "candidates.jsonl": candidates}.items():
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (bench / file).write_text(text, "utf-8")
hbt.load_benchmark("capitals")

# %% [markdown]
# ## A run is a dict, too
#
# It has the keys of a run file. `"quickstart"` is a run file of the package; the changes replace its data,
# its length and its benchmark. The model starts from scratch here; `"model.name_or_path":
# "intfloat/multilingual-e5-small"` would start from a trained one.

# %%
run = hbt.load_run(
    "quickstart",
    {
        "name": "capitals",
        "output_dir": "runs/capitals",
        "data.sources": [{"name": "capitals", "rows": rows}],
        "batches.global_batch_size": 24,
        "batches.alpha": 0.5,
        "model.scratch.vocabulary_size": 1000,
        "step.chunk_rows": 24,
        "training": {"steps": 120},
        "evaluation.benchmarks": [{"name": "capitals"}],
    },
)
run

# %% [markdown]
# Settings are checked at once, and never change in place. A changed copy is one call:

# %%
run.with_changes({"batches.alpha": 0.25, "output_dir": "runs/quarter"}).batches.alpha

# %% [markdown]
# ## Look at the batches before training
#
# `alpha` is the share of monolingual batches. In a cross-lingual batch, question and passage have different
# languages. Any batch can be shown without those before it.

# %%
corpus = hbt.build_corpus(run.data)
plan = hbt.BatchPlan(corpus, run.batches, run.seed)
for step in range(4):
    batch = plan.batch(step)
    pairs = zip(batch.question_language[:4], batch.passage_language[:4], strict=True)
    shown = [f"{corpus.languages[question]}->{corpus.languages[passage]}" for question, passage in pairs]
    print(f"step {step}: {batch.kind}, {', '.join(shown)}, ...")
corpus

# %% [markdown]
# ## Train, and measure before and after
#
# The call trains in this process; `launcher="ray"` starts workers. A callback sees the figures of each
# step. The same call continues an interrupted run.

# %%
losses = {}


def remember(step, figures):
    """Keep the loss of each step."""
    losses[step] = figures["loss"]


trained = hbt.train(run, callbacks=[remember], quiet=True)
trained

# %%
print(f"loss {losses[1]:.2f} at step 1, {losses[len(losses)]:.2f} at step {len(losses)}")

# %% [markdown]
# ## Every pair of languages, as a data frame
#
# Rows are languages of questions, columns languages of candidates. The difference is what training changed.

# %%
before, after = trained.evaluation("start"), trained.evaluation("end")
(after.pairs() - before.pairs()).round(3)

# %%
after.pairs("recall@1").round(3)

# %% [markdown]
# Is the change more than chance? The comparison tests it by question, and corrects for the number of tests.

# %%
print(hbt.comparison_text(hbt.compare([[after.folder]], baseline=[before.folder])))

# %% [markdown]
# ## Measure any model
#
# One call measures a folder, a name on the hub, a `SentenceTransformer`, or vectors that something else has
# computed.

# %%
encoder = hbt.load_encoder(trained.model, quiet=True)
benchmark = hbt.load_benchmark("capitals", languages=["en", "de"])
vectors = (
    hbt.encode_texts(encoder, benchmark.question_texts, "question", progress=False),
    hbt.encode_texts(encoder, benchmark.candidate_texts, "passage", progress=False),
)
hbt.evaluate_model(vectors, benchmark, quiet=True)

# %% [markdown]
# ## Use the model elsewhere
#
# The trained folder is a model of sentence-transformers and of transformers as it is.

# %%
try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    print("pip install sentence-transformers")
else:
    model = SentenceTransformer(str(trained.model), device="cpu")
    answers = [line["text"] for line in candidates if line["language"] == "fi"]
    scores = model.similarity(
        model.encode_query(["capital of Sweden"], show_progress_bar=False),
        model.encode_document(answers, show_progress_bar=False),
    )
    print("capital of Sweden ->", answers[int(scores.argmax())])
