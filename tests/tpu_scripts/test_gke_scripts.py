"""gke.sh and the manifests that it sends: their fields, what becomes of each way to end, quoting, dry runs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts" / "gke.sh"
STAND_INS = Path(__file__).parent / "stand_ins"
PLACE = ("--image", "here/vision:1", "--bucket", "results", "--service-account", "trainer")
TPU = ("--tpu", "tpu-v5-lite-podslice", "--topology", "4x4")
GPU = ("--gpu", "nvidia-h100-80gb", "--nodes", "2", "--gpus-per-node", "8")
COMMAND = ("--", "python", "-m", "experiments.demo")


class Cluster:
    """The folder of the stand-in kubectl."""

    def __init__(self, folder):
        self.folder, self.programs = folder / "cluster", folder / "programs"
        self.folder.mkdir()
        self.programs.mkdir()
        kubectl = self.programs / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {STAND_INS / "kubectl.py"} "$@"\n')
        kubectl.chmod(0o755)
        (self.programs / "python3").symlink_to(sys.executable)

    def call(self, *words, **environment):
        path = {"PATH": f"{self.programs}:/usr/bin:/bin", "CLUSTER": str(self.folder)}
        return subprocess.run(
            [str(SCRIPT), *words], env={**path, **environment}, capture_output=True, text=True, timeout=30
        )

    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def objects(cluster, *options, command=COMMAND):
    """The rendered manifest as objects by kind."""
    done = cluster.call("render", "--name", "demo", *PLACE, *options, *command)
    assert done.returncode == 0, done.stderr
    return {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}


def parts(manifest):
    """The job, its pod and the experiment's container."""
    (replicated,) = manifest["JobSet"]["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return replicated, job, job["template"]["spec"], container


def test_tpu_manifest(cluster):
    """A job a slice, a pod a host; GKE's labels choose the node pool."""
    manifest = objects(cluster, *TPU, "--slices", "2", "--save-seconds", "600", "--namespace", "lab")
    assert set(manifest) == {"JobSet"}
    found = manifest["JobSet"]
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert found["metadata"]["namespace"] == "lab"
    assert found["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    replicated, job, pod, container = parts(manifest)
    assert replicated["replicas"] == 2
    assert job["parallelism"] == job["completions"] == 4  # 16 chips, 4 a host
    assert job["completionMode"] == "Indexed"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["terminationGracePeriodSeconds"] == 600
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}


def test_gpu_manifest(cluster):
    """One job, a pod a node with all its GPUs; JAX may ask the cluster who the others are."""
    manifest = objects(cluster, *GPU, "--spot")
    assert set(manifest) == {"Role", "RoleBinding", "JobSet"}
    rules = {resource: rule["verbs"] for rule in manifest["Role"]["rules"] for resource in rule["resources"]}
    assert rules == {"pods": ["list"], "jobs": ["get"]}
    assert manifest["RoleBinding"]["subjects"] == [
        {"kind": "ServiceAccount", "name": "trainer", "namespace": "default"}
    ]
    assert manifest["RoleBinding"]["roleRef"]["name"] == manifest["Role"]["metadata"]["name"] == "demo"
    replicated, job, pod, container = parts(manifest)
    assert replicated["replicas"] == 1
    assert job["parallelism"] == job["completions"] == 2
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    spot = "cloud.google.com/gke-spot"
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb", spot: "true"}
    assert pod["tolerations"] == [{"key": spot, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]


@pytest.mark.parametrize("kind", [TPU, GPU], ids=["tpu", "gpu"])
def test_results_go_to_the_bucket(cluster, kind):
    """The bucket is mounted, and runs/ of the code leads there before the command starts."""
    _, job, pod, container = parts(objects(cluster, *kind))
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "bucket"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "results"
    assert "metadata-cache:ttl-secs:0" in volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert {"name": "bucket", "mountPath": "/bucket"} in container["volumeMounts"]
    assert container["workingDir"] == "/vision"
    assert "ln -sfn /bucket/runs /vision/runs && exec " in container["command"][2]
    assert pod["serviceAccountName"] == "trainer"


def consequence(manifest, code, disrupted=False):
    """What the controllers make of a pod that ends so: (JobSet's action, whether it counts), by their documentation.

    The first rule of the Job's podFailurePolicy that matches decides; without one the pod counts against backoffLimit.
    The Job's reason then selects the first matching rule of the JobSet's failurePolicy.
    """
    _, job, pod, _ = parts(manifest)
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy demands
    reason = "BackoffLimitExceeded" if job["backoffLimit"] == 0 else None
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        by_code = codes is not None and codes["operator"] == "In" and code in codes["values"]
        by_condition = disrupted and any(
            condition == {"type": "DisruptionTarget", "status": "True"} for condition in rule.get("onPodConditions", ())
        )
        if by_code or by_condition:
            assert rule["action"] == "FailJob"
            reason = "PodFailurePolicy"
            break
    policy = manifest["JobSet"]["spec"]["failurePolicy"]
    action = next(rule["action"] for rule in policy["rules"] if reason in rule["onJobFailureReasons"])
    return action, policy["maxRestarts"]


@pytest.mark.parametrize("kind", [TPU, GPU], ids=["tpu", "gpu"])
def test_what_becomes_of_each_way_to_end(cluster, kind):
    """Interruptions start again without being counted; a failure ends the JobSet."""
    manifest = objects(cluster, *kind)
    assert consequence(manifest, 75)[0] == "RestartJobSetAndIgnoreMaxRestarts"
    assert consequence(manifest, 137, disrupted=True)[0] == "RestartJobSetAndIgnoreMaxRestarts"
    for code in (1, 2, 3, 4, 134, 137):
        assert consequence(manifest, code) == ("FailJobSet", 0)
    patient = objects(cluster, *kind, "--max-restarts", "3")
    assert consequence(patient, 1) == ("RestartJobSet", 3)
    assert consequence(patient, 75)[0] == "RestartJobSetAndIgnoreMaxRestarts"
    policy = manifest["JobSet"]["spec"]["failurePolicy"]
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert all(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]) for rule in policy["rules"])


def expanded(word):
    """What Kubernetes makes of a word of a command: $$ is $, and $(NAME) would be a variable."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", word), word
    return word.replace("$$", "$")


def test_words_reach_the_experiment_as_they_were_typed(cluster, tmp_path):
    """Through this shell, YAML, Kubernetes' own substitution and the shell of the pod."""
    words = ["two  words", "it's", '"', "$HOME `id` $(id) $$", "\\", "*", "", "a\nb", "ä", "{{x}}", "${y}", "-x: [1]"]
    _, _, _, container = parts(objects(cluster, *TPU, command=(*COMMAND, *words)))
    start = [expanded(word) for word in container["command"]]
    assert start[:2] == ["bash", "-c"]
    here = start[2].replace("/bucket", str(tmp_path / "bucket")).replace("/vision/runs", str(tmp_path / "runs"))
    printing = [sys.executable, "-S", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *start[5:]]
    done = subprocess.run(["bash", "-c", here, "bash", *printing], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["-m", "experiments.demo", *words]
    assert (tmp_path / "runs").resolve() == tmp_path / "bucket" / "runs"


def test_create_follow_stop_resume_delete(cluster):
    name = ("--name", "demo", "--namespace", "lab", "--context", "far")
    create = ("create", *name, *PLACE, *GPU, *COMMAND)
    done = cluster.call(*create)
    assert done.returncode == 0, done.stderr
    rendered = cluster.call("render", *create[1:]).stdout
    assert (cluster.folder / "demo.yaml").read_text() == rendered
    assert all(call[:2] == ["--context=far", "--namespace=lab"] for call in cluster.calls())
    again = cluster.call(*create)
    assert again.returncode == 1
    assert "there is a JobSet demo already" in again.stderr
    assert cluster.call("status", *name).returncode == 0
    assert cluster.call("follow", *name).stdout == "loss 0.5\n"
    (follow,) = [call for call in cluster.calls() if "logs" in call]
    assert "--container=experiment" in follow
    assert any("job-completion-index=0" in word for word in follow)
    for step, suspended in (("stop", "True"), ("resume", "False")):
        assert cluster.call(step, *name).returncode == 0
        assert (cluster.folder / "demo.suspended").read_text() == suspended
    assert cluster.call("delete", *name).returncode == 0
    assert not (cluster.folder / "demo.yaml").exists()
    assert cluster.call("status", *name).returncode == 1


def test_a_cluster_that_does_not_answer(cluster):
    (cluster.folder / "unreachable").touch()
    done = cluster.call("create", "--name", "demo", *PLACE, *TPU, *COMMAND)
    assert done.returncode == 1
    assert "the cluster could not be asked" in done.stderr


@pytest.mark.parametrize("step", ["create", "status", "follow", "stop", "resume", "delete"])
def test_dry_run_calls_nothing_and_prints_all(cluster, step):
    options = (*PLACE, *TPU, *COMMAND, "it's") if step == "create" else ()
    done = cluster.call(step, "--name", "demo", *options, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert not cluster.calls()
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert printed
    assert all(words[0] in ("kubectl", "python3") for words in printed)
    if step == "create":
        bar = printed[-1].index("|")
        assert printed[-1][bar - 4 : bar] == ["python", "-m", "experiments.demo", "it's"]
        assert printed[-1][bar + 1 :] == ["kubectl", "--namespace=default", "apply", "--filename=-"]


def test_usage(cluster):
    for words in ((), ("--help",), ("create", "-h")):
        done = cluster.call(*words)
        assert done.returncode == 0
        assert "gke.sh create --name NAME" in done.stdout


WRONG = [
    (("craete",), "there is no command craete"),
    (("create",), "--name is missing"),
    (("create", "--name", "demo"), "--image"),
    (("create", "--name", "Demo", *PLACE, *TPU, *COMMAND), "--name takes"),
    (("create", "--name", "demo", *PLACE, *COMMAND), "--tpu --gpu is required"),
    (("create", "--name", "demo", *PLACE, *TPU, *GPU, *COMMAND), "not allowed with"),
    (("create", "--name", "demo", *PLACE, *TPU, "--nodes", "2", *COMMAND), "--nodes does not belong to --tpu"),
    (("create", "--name", "demo", *PLACE, "--tpu", "v5", *COMMAND), "--topology takes"),
    (("create", "--name", "demo", *PLACE, *TPU, "--chips-per-host", "5", *COMMAND), "16 chips"),
    (("create", "--name", "demo", *PLACE, *TPU, "--save-seconds", "0", *COMMAND), "--save-seconds takes"),
    (("create", "--name", "demo", *PLACE, *TPU), "python -m experiments.NAME"),
    (("create", "--name", "demo", *PLACE, *TPU, "--sopt", "1", *COMMAND), "--sopt"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_are_one_sentence(cluster, words, message):
    done = cluster.call(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not cluster.calls()
