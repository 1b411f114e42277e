"""Publishing a trained model, by the real client to a Hub on loopback.

What each fault leads to; in each case the run's folder is left as it was, and the repo holds either all of a push or
nothing of it. "Tries" counts the requests that fail and those that follow.

| fault | outcome | tries |
|---|---|---|
| who am I: 503 twice | published | 3 |
| the repo is made: 503 twice | published | 3 |
| the repo is made, but the answer is lost | published | 2 |
| commit: 503 three times | published | 4 |
| commit: 429 that asks for 7 seconds | published after 7 seconds | 2 |
| commit: connection closed before it is carried out | published | 2 |
| commit: carried out, answer lost | published, one commit | 1 |
| commit: carried out, answered by 504 | published, one commit | 1 |
| pull request: opened, answer lost | published, one pull request | 1 |
| upload of the weights dies half way, once | published | 2 |
| upload of the weights dies half way, always | refused, status 3 | 6 x the client's own 6 |
| commit: 503 for ever | refused, status 3 | 6 |
| commit: 403 | refused, status 3 | 1 |
| card: refused by the Hub | refused, status 3 | 1 |
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

import train
from modeling import publish as publishing
from modeling.hub.card import model_card
from modeling.hub.client import Destination, PublishError
from modeling.publish import preflight, publish
from modeling.training.parser import parse_arguments
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support.hub.cards import check_card
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.usefixtures("token", "waits")
ROOT = Path(__file__).parent.parent
MODEL, REPO = "user/vqa", "models/user/vqa"
QUICK = [
    *("--model_name_or_path", "scratch:tiny", "--num_train_epochs", "1", "--per_device_train_batch_size", "64"),
    *("--disable_tqdm", "True", "--report_to", "none"),
]


def run(*flags: object) -> None:
    train.main([*QUICK, *map(str, flags)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(hub, method: str, part: str) -> int:
    return sum(request.startswith(method) and part in request for request in hub.requests)


@pytest.fixture(scope="module")
def finished(phantoms, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    run("--dataset", phantoms, "--output_dir", folder, "--do_predict")
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def push(folder: Path, **options) -> str:
    destination = Destination(MODEL, **options)
    return publish(folder, destination, preflight(destination, None))


def test_what_goes_up_is_the_model_and_what_explains_it(hub, folder):
    push(folder)
    assert set(hub.repos[REPO]) == {
        *(".gitattributes", "README.md", "all_results.json", "config.json", "loss.png", "metrics.png"),
        *("model.safetensors", "processor_config.json", "recipe.yaml", "run.json"),
        *("tokenizer.json", "tokenizer_config.json", "report/report.json", "report/report.md"),
        # not what shows images of the data: errors.html and pointing_*.jpg
        *(f"report/{plot}_{split}.png" for plot in ("reliability", "risk") for split in ("validation", "test")),
    }
    assert hub.repos[REPO]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(hub.commits(REPO)) == 2


def test_predictions_go_up_on_request(hub, folder):
    publishing.main([str(folder), "--repo_id", MODEL, "--predictions"])
    assert {"predictions_validation.jsonl", "predictions_test.jsonl"} <= set(hub.repos[REPO])


def test_no_uploaded_byte_holds_a_token_or_a_path_of_this_machine(hub, folder, phantoms):
    publish(folder, Destination(MODEL, token="hf_write"), predictions=True)
    secret = ["hf_write", str(folder), str(folder.parent), str(phantoms), str(ROOT), str(Path.home()), "training_args"]
    for name, content in hub.repos[REPO].items():
        found = [text for text in secret if text.encode() in content]
        assert not found, f"{name} holds {found}"


def test_training_pushes_at_its_end_and_saves_no_token(hub, phantoms, tmp_path):
    flags = ["--push_to_hub", "--hub_model_id", MODEL, "--hub_token", "hf_write", "--hub_private_repo", "True"]
    run("--dataset", phantoms, "--output_dir", tmp_path, *flags)
    assert REPO in hub.private
    assert hub.repos[REPO]["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert next(commit.title for commit in hub.commits(REPO)) == publishing.MESSAGE
    assert len(hub.commits(REPO)) == 2, "the Trainer must not push by itself"
    assert not any(b"hf_write" in content for content in contents(tmp_path).values())


def test_pushing_again_sends_nothing_and_a_change_alone(hub, folder):
    push(folder)
    uploads = sent(hub, "PUT", "/storage/")
    push(folder)
    assert (sent(hub, "PUT", "/storage/"), len(hub.commits(REPO))) == (uploads, 2)
    reports = json.loads((folder / "report" / "report.json").read_text())
    reports["test"]["figures"][0]["exact_match"] = [1.25, 1.0, 2.0]
    (folder / "report" / "report.json").write_text(json.dumps(reports))
    push(folder)
    assert (sent(hub, "PUT", "/storage/"), len(hub.commits(REPO))) == (uploads, 3)
    assert b"| Exact Match | 1.25 | 1.00 to 2.00 |" in hub.repos[REPO]["README.md"]


def test_model_files_of_an_earlier_push_that_no_longer_fit_go(hub, folder):
    push(folder)
    hub.repos[REPO] |= {"adapter_config.json": b"{}", "notes.md": b"mine"}
    push(folder)
    assert "adapter_config.json" not in hub.repos[REPO]
    assert hub.repos[REPO]["notes.md"] == b"mine"


def test_private_repo_is_loaded_back_byte_for_byte_with_the_token_only(hub, folder, tmp_path, monkeypatch):
    push(folder, private=True)
    assert REPO in hub.private
    loaded = Path(snapshot_download(MODEL, cache_dir=tmp_path / "cache"))
    assert (loaded / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(MODEL, cache_dir=tmp_path / "empty")


def test_pull_request_leaves_main_alone(hub, folder):
    push(folder)
    before = hub.commit_of(REPO)
    (folder / "all_results.json").write_text("{}")
    assert "discussions/1" in push(folder, create_pr=True)
    assert hub.commit_of(REPO) == before
    assert hub.files(REPO, "refs/pr/1")["all_results.json"] == b"{}"


def test_branch_is_made_and_main_stays_empty(hub, folder):
    push(folder, revision="trial")
    assert "model.safetensors" in hub.files(REPO, "trial")
    assert "model.safetensors" not in hub.repos[REPO]


def fault(name: str, tries: int, waits: list[int], request: tuple[str, str], **options):
    return pytest.param(options, tries, waits, request, id=name)


@pytest.mark.parametrize(
    ("options", "tries", "expected_waits", "request_"),
    [
        fault("whoami 503", 3, [1, 2], ("GET", "/whoami"), times=2),
        fault("create 503", 3, [1, 2], ("POST", "/repos/create"), times=2),
        fault("create lost", 2, [1], ("POST", "/repos/create"), after=True),
        fault("commit 503", 4, [1, 2, 4], ("POST", "/commit/"), times=3),
        fault("commit 429", 2, [7], ("POST", "/commit/"), status=429, headers={"Retry-After": "7"}),
        fault("commit dropped", 2, [1], ("POST", "/commit/"), drop=True),
        fault("commit lost", 1, [1], ("POST", "/commit/"), after=True),
        fault("commit replaced", 1, [1], ("POST", "/commit/"), after=True, status=504),
        fault("upload dies once", 2, [], ("PUT", "/storage/"), partial=1000),
    ],
)
def test_fault_that_passes_is_survived(hub, folder, waits, options, tries, expected_waits, request_):
    before = contents(folder)
    hub.fail(*request_, **options)
    push(folder)
    assert hub.repos[REPO]["model.safetensors"] == before["model.safetensors"]
    assert [commit.title for commit in hub.commits(REPO)] == [publishing.MESSAGE, hub.commits(REPO)[-1].title]
    assert (sent(hub, *request_), waits) == (tries, expected_waits)
    assert {**contents(folder), "README.md": b""} == {**before, "README.md": b""}


def test_pull_request_whose_answer_is_lost_is_not_opened_again(hub, folder, waits):
    push(folder)
    (folder / "all_results.json").write_text("{}")
    hub.fail("POST", "/commit/", after=True)
    push(folder, create_pr=True)
    assert hub.files(REPO, "refs/pr/1")["all_results.json"] == b"{}"
    refs = HfApi().list_repo_refs(MODEL, include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]


@pytest.mark.parametrize(
    ("options", "tries", "request_", "reason"),
    [
        pytest.param({"partial": 1000, "times": 99}, 36, ("PUT", "/storage/"), "uploading", id="upload always dies"),
        pytest.param({"times": 99}, 6, ("POST", "/commit/"), "HTTP 503", id="commit 503 for ever"),
        pytest.param({"status": 403}, 1, ("POST", "/commit/"), "HTTP 403", id="commit 403"),
        pytest.param({"status": 400}, 1, ("POST", "/validate-yaml"), "", id="card refused"),
    ],
)
def test_fault_that_stays_costs_nothing_but_the_push(hub, folder, options, tries, request_, reason):
    before = contents(folder)
    hub.fail(*request_, **options)
    with pytest.raises(PublishError) as error:
        push(folder, private=True)
    assert reason in str(error.value)
    assert f"`python -m modeling.publish {folder} --repo_id {MODEL} --private`" in str(error.value)
    assert error.value.exit_status == 3
    assert sent(hub, *request_) == tries
    assert len(hub.commits(REPO)) == 1, "only what made the repo"
    assert {**contents(folder), "README.md": b""} == {**before, "README.md": b""}


def test_the_printed_command_continues_after_a_failed_push(hub, phantoms, tmp_path):
    hub.fail("POST", "/commit/", status=403)
    environment = {**os.environ, "HF_TOKEN": "hf_write"}
    out = tmp_path / "with space"
    flags = ["--dataset", phantoms, "--output_dir", out, "--push_to_hub", "--hub_model_id", MODEL]
    command = [sys.executable, "train.py", *QUICK, *flags]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.rsplit("`", 2)[1].replace("python", sys.executable, 1)
    done = subprocess.run(line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO]["model.safetensors"] == (out / "model.safetensors").read_bytes()


def allow(hub, org: str, role: str) -> None:
    hub.tokens["hf_write"]["orgs"] = {org: role}


@pytest.mark.parametrize(
    ("repo_id", "given", "base", "message"),
    [
        (MODEL, None, None, "needs a token; log in with `hf auth login`"),
        (MODEL, "hf_wrong", None, "rejects the token"),
        (MODEL, "hf_read", None, "the token of user may not write there"),
        ("other/vqa", "hf_write", None, "the token of user may not write there"),
        ("user/v q a", "hf_write", None, "not a valid name of a Hub repo"),
        (MODEL, "hf_write", "nobody/nothing", "--model_name_or_path nobody/nothing: the Hub has no such model"),
    ],
)
def test_preflight_ends_the_run_before_anything_is_read(hub, monkeypatch, tmp_path, repo_id, given, base, message):
    if given is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", given)
    monkeypatch.setattr(train, "load_data", lambda *_: pytest.fail("data were read"))
    flags = ["--output_dir", tmp_path / "out", "--push_to_hub", "--hub_model_id", repo_id]
    with pytest.raises(UserError) as error:
        run(*flags, *(["--model_name_or_path", base] if base else []))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not hub.repos


def test_preflight_accepts_the_namespace_of_an_organization_with_write_role(hub):
    allow(hub, "clinic", "write")
    assert preflight(Destination("clinic/vqa"), None) is None
    allow(hub, "clinic", "read")
    with pytest.raises(UserError, match="may not write there"):
        preflight(Destination("clinic/vqa"), None)


def test_preflight_returns_the_licence_of_the_base(hub):
    hub.repos["models/lab/vilt"] = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}"}
    assert preflight(Destination(MODEL), "lab/vilt") == "mit"
    assert not hub.repos.get(REPO), "the preflight makes no repo"


def test_preflight_of_a_pull_request_needs_the_repo(hub):
    with pytest.raises(UserError, match="the Hub has no such repo, so no pull request can be opened"):
        preflight(Destination(MODEL, create_pr=True), None)


def test_preflight_says_when_the_hub_is_down(hub, waits):
    hub.fail("GET", "/whoami", times=99)
    with pytest.raises(UserError, match=r"the Hub can't be reached \(HTTP 503"):
        preflight(Destination(MODEL), None)
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("flags", [["--push_to_hub"], ["--push_to_hub", "--hub_model_id", "vqa"]])
def test_push_needs_the_name_of_a_repo(flags):
    with pytest.raises(UserError, match="--push_to_hub needs a training run and --hub_model_id user/name"):
        parse_arguments(flags)


def test_folder_without_a_finished_run_is_told(hub, tmp_path):
    with pytest.raises(UserError, match=r"run\.json: can't be read; give the --output_dir"):
        publishing.main([str(tmp_path), "--repo_id", MODEL])
    assert not hub.repos


def test_card_of_the_push_passes_the_hubs_check_and_names_the_repo(hub, folder):
    push(folder)
    card = hub.repos[REPO]["README.md"].decode()
    assert f'Predictor.from_pretrained("{MODEL}")' in card
    model_card(folder, MODEL).validate()


ROUND_TRIPS = {
    "starter": ["--model_name_or_path", "starter"],
    "adapter": ["--model_type", "blip2", "--model_name_or_path", "lab/blip2", "--lora_targets", "dense", "projection"],
}


@pytest.mark.parametrize("kind", ROUND_TRIPS)
def test_published_model_answers_the_same_in_a_fresh_process_with_an_empty_cache(hub, phantoms, tmp_path, kind):
    base = tiny_blip2("llama", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    hub.repos["models/lab/blip2"] = {**contents(base), "README.md": b"---\nlicense: mit\n---\n"}
    out = tmp_path / "out"
    flags = ["--max_steps", "8", "--learning_rate", "5e-3", "--eval_strategy", "no", "--save_strategy", "no"]
    flags += [*ROUND_TRIPS[kind], "--dataset", phantoms, "--output_dir", out, "--disable_tqdm", "True"]
    push_flags = ["--push_to_hub", "True", "--hub_model_id", MODEL]
    train.main(list(map(str, [*flags, *push_flags])))
    expected = [json.loads(line) for line in (out / "predictions_validation.jsonl").read_text().splitlines()]
    assert len({row["prediction"] for row in expected}) > 1
    shutil.rmtree(out)
    shutil.rmtree(base)

    rows = json.loads((phantoms / "validate.json").read_text())
    asked, answered = phantoms / f"asked_{kind}.csv", tmp_path / "answered.csv"
    lines = [{"image": f"imgs/{row['img_name']}", "question": row["question"]} for row in rows]
    with asked.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "question"])
        writer.writeheader()
        writer.writerows(lines)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "MEDICAL_VQA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "modeling.predictor", MODEL, "--csv", asked, "--out", answered]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    asked.unlink()
    assert done.returncode == 0, done.stderr
    with answered.open(newline="") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [row["prediction"] for row in expected]
    card = hub.repos[REPO]["README.md"].decode()
    assert check_card(card, "model") == ([], [])
    assert ("base_model: lab/blip2" in card) == (kind == "adapter")


def test_adapter_over_a_folder_is_refused_before_training_but_its_merged_model_goes(hub, phantoms, tmp_path):
    base = tiny_blip2("llama", load_vqa_dataset(str(phantoms)), tmp_path / "base")
    flags = ["--model_type", "blip2", "--model_name_or_path", base, "--max_steps", "2", "--disable_tqdm", "True"]
    flags += ["--dataset", phantoms, "--output_dir", tmp_path / "out", "--push_to_hub", "--hub_model_id", MODEL]
    with pytest.raises(UserError, match="an adapter over a folder can't be published"):
        train.main(list(map(str, flags)))
    assert not (tmp_path / "out").exists()
    train.main(list(map(str, [*flags, "--merge_adapter", "True"])))
    assert {"config.json", "model.safetensors", "answering.json"} <= set(hub.repos[REPO])
    assert not {name for name in hub.repos[REPO] if name.startswith("adapter")}
    assert all(str(tmp_path).encode() not in content for content in hub.repos[REPO].values())


def test_use_in_the_card_works_as_printed(hub, folder, tmp_path, monkeypatch, capsys):
    push(folder)
    (code,) = re.findall(r"```python\n(.*?)```", hub.repos[REPO]["README.md"].decode(), re.DOTALL)
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    answer, _, confidence = capsys.readouterr().out.strip().rpartition(" ")
    assert answer in json.loads((folder / "config.json").read_text())["label2id"]
    assert 0 < float(confidence) <= 1
