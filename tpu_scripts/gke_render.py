"""Fill in a JobSet manifest: gke_tpu.yaml or gke_gpu.yaml. Called by gke.sh; needs nothing but Python 3.8 or newer."""

import argparse
import json
import math
import re
import string
import sys
from pathlib import Path

# No metadata is cached, because the hosts of a run write parts of one checkpoint and must see each other's files; and
# writes are staged, so that fsync writes a file to the bucket, which streaming writes do only on close.
MOUNT_OPTIONS = ",".join(
    ("metadata-cache:ttl-secs:0", "metadata-cache:negative-ttl-secs:0", "write:enable-streaming-writes:false")
)

# The folder runs/ of the code is runs/ of the bucket; exec, so that the experiment itself gets the signals.
START = 'mkdir -p /bucket/runs && ln -sfn /bucket/runs /vision/runs && exec "$@"'


def fail(sentence: str) -> None:
    """Stop with one line on standard error."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage."""

    def error(self, message: str):
        """Stop with the parser's message."""
        fail(message)


def parser() -> Parser:
    """The options; gke.sh describes them."""
    made = Parser(prog="gke_render.py", description=__doc__, allow_abbrev=False)
    for name in ("--name", "--image", "--bucket", "--service-account"):
        made.add_argument(name, required=True)
    made.add_argument("--namespace", default="default")
    kind = made.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tpu")
    kind.add_argument("--gpu")
    made.add_argument("--topology")
    made.add_argument("--chips-per-host", type=int)
    made.add_argument("--slices", type=int)
    made.add_argument("--nodes", type=int)
    made.add_argument("--gpus-per-node", type=int)
    made.add_argument("--spot", action="store_true")
    made.add_argument("--save-seconds", type=int, default=300)
    made.add_argument("--max-restarts", type=int, default=0)
    made.add_argument("command", nargs=argparse.REMAINDER)
    return made


def check(options: argparse.Namespace) -> None:
    """Stop if the options are inconsistent."""
    for name in ("name", "namespace", "service_account"):
        value = getattr(options, name)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", value):
            fail(f"--{name.replace('_', '-')} takes up to 40 lower-case letters, digits and hyphens, not '{value}'")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", options.bucket):
        fail(f"--bucket takes the name of a bucket, without gs:// and without a path, not '{options.bucket}'")
    mine, others = ("topology", "chips_per_host", "slices"), ("nodes", "gpus_per_node")
    if options.gpu:
        mine, others = others, mine
    for name in others:
        if getattr(options, name) is not None:
            fail(f"--{name.replace('_', '-')} does not belong to --{'gpu' if options.gpu else 'tpu'}")
    for name in (*mine, "save_seconds"):
        value = getattr(options, name)
        if isinstance(value, int) and value < 1:
            fail(f"--{name.replace('_', '-')} takes a whole number from 1, not {value}")
    if options.max_restarts < 0:
        fail(f"--max-restarts takes a whole number from 0, not {options.max_restarts}")
    if options.tpu and not re.fullmatch(r"\d+(x\d+){1,2}", options.topology or ""):
        fail(f"--topology takes the topology of a slice, such as 2x4 or 2x2x4, not '{options.topology or ''}'")
    if len(options.command) < 3 or options.command[:2] != ["python", "-m"]:
        fail("after -- comes the command: python -m experiments.NAME OPTIONS")


def values(options: argparse.Namespace) -> dict:
    """The values for the template, by name."""
    if options.tpu:
        each = options.chips_per_host or 4
        chips = math.prod(map(int, options.topology.split("x")))
        hosts, rest = divmod(chips, each)
        if rest:
            fail(f"a slice of {options.topology} has {chips} chips, not a multiple of --chips-per-host {each}")
        selector = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu,
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
    else:
        each, hosts = options.gpus_per_node or 1, options.nodes or 1
        selector = {"cloud.google.com/gke-accelerator": options.gpu}
    tolerations = []
    if options.spot:
        key = "cloud.google.com/gke-spot"
        selector[key] = "true"
        tolerations = [{"key": key, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    words = ["bash", "-c", START, "bash", *options.command]
    return {
        **{name: getattr(options, name) for name in ("name", "namespace", "image", "bucket", "service_account")},
        "slices": options.slices or 1,
        "hosts": hosts,
        "chips": each,
        "node_selector": selector,
        "tolerations": tolerations,
        "save_seconds": options.save_seconds,
        "max_restarts": options.max_restarts,
        "on_failure": "RestartJobSet" if options.max_restarts else "FailJobSet",
        "mount_options": MOUNT_OPTIONS,
        # Kubernetes replaces $(NAME) in commands, and reads $$ as $
        "command": [word.replace("$", "$$") for word in words],
    }


def render(arguments: list) -> str:
    """The manifest for a command line."""
    options = parser().parse_args(arguments)
    if options.command[:1] == ["--"]:
        options.command = options.command[1:]
    check(options)
    template = (Path(__file__).parent / ("gke_tpu.yaml" if options.tpu else "gke_gpu.yaml")).read_text()
    return string.Template(template).substitute({name: json.dumps(value) for name, value in values(options).items()})


if __name__ == "__main__":
    print(render(sys.argv[1:]), end="")
