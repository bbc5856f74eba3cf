"""tpu_stages.sh: experiments in turn on a TPU that is kept in a folder."""

import shlex

import pytest
from pretended_cloud import QUICK, ROOT, WHERE, Cloud, git

SCRIPT = ROOT / "tpu_scripts" / "tpu_stages.sh"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "pyproject.toml").write_text("[project]\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", *words)
    return folder


@pytest.fixture
def cloud(tmp_path, checkout, monkeypatch):
    monkeypatch.setattr("pretended_cloud.SCRIPT", SCRIPT)
    return Cloud(tmp_path, checkout)


def stages(cloud, *lines):
    file = cloud.folder.parent / "stages.txt"
    file.write_text("\n".join(lines) + "\n")
    wanted = ("--type", "v4-8", "--bucket", "results", "--checkout", str(cloud.checkout))
    return ("--stages", str(file), *WHERE, *wanted, *QUICK)


CHAIN = ("# the system", "python -m experiments.first --lr '1e-3 x'", "", "python -m experiments.second")


def test_stages_run_in_turn_and_survive_preemption(cloud):
    """The first is preempted and resumed; the second begins when it has finished; then the TPU is deleted."""
    cloud.plan("save 10; preempt", "save 20; exit 0", "save 10; exit 0")
    done = cloud.call(*stages(cloud, *CHAIN), "--spot", "--delete-on-success")
    assert done.returncode == 0, done.stderr
    first = ["-m", "experiments.first", "--lr", "1e-3 x"]
    assert cloud.starts() == [first, first, ["-m", "experiments.second"]]
    assert len(cloud.calls("create", "--spot")) == 2
    deleted = [line for line in cloud.calls("delete", "--force") if "demo" in line]
    assert len(deleted) == 2  # after the preemption, and at the end
    assert "stage 2 of 2: python -m experiments.second" in done.stderr


def test_a_stage_that_fails_ends_the_chain(cloud):
    """With its exit code; called again, the chain goes on, and --delete-on-exit leaves nothing behind."""
    cloud.plan("save 10; exit 0", "echo 'the loss became nan'; exit 3")
    done = cloud.call(*stages(cloud, *CHAIN, "python -m experiments.third"), "--delete-on-exit")
    assert done.returncode == 3, done.stderr
    assert [words[1] for words in cloud.starts()] == ["experiments.first", "experiments.second"]
    assert "stage 2 of 3 ended with 3" in done.stderr
    assert len(cloud.calls("delete", "--force")) == 1


def test_a_dry_run_prints_what_would_run(cloud):
    done = cloud.call(*stages(cloud, *CHAIN), "--delete-on-exit", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["run", "run"]
    assert lines[0][lines[0].index("--") + 1 :] == ["python", "-m", "experiments.first", "--lr", "1e-3 x"]
    assert ["--delete-on-exit" in line for line in lines] == [False, True]


@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        (("rm -rf /",), (), "which is no python -m experiments.NAME OPTIONS"),
        (("# nothing",), (), "has no command"),
        (("python -m experiments.first 'a",), (), "whose quotes do not end"),
        (CHAIN, ("--", "python"), "commands come from the file that --stages names"),
        (CHAIN, ("word",), "'word' is no option"),
        (CHAIN, ("--stages", "/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_wrong_words_are_one_sentence(cloud, lines, more, said):
    done = cloud.call(*stages(cloud, *lines), *more)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not cloud.calls()


def test_help():
    import subprocess

    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "each starts when the one before has finished" in done.stdout
