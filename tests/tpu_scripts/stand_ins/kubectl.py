"""Stands in for kubectl in tests: keeps JobSets in $CLUSTER, one file each; each call is a line of `calls` there."""

import json
import os
import re
import sys
from pathlib import Path

CLUSTER = Path(os.environ["CLUSTER"])


def main(arguments):
    with (CLUSTER / "calls").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    if (CLUSTER / "unreachable").exists():
        sys.exit("Unable to connect to the server: dial tcp: i/o timeout")
    verb, *words = [word for word in arguments if not word.startswith("-")]
    if verb == "apply":
        manifest = sys.stdin.read()
        found = re.search(r"^kind: JobSet\nmetadata:\n  name: \"(.*)\"$", manifest, re.MULTILINE)
        if found is None:
            sys.exit("error: no JobSet in the input")
        (CLUSTER / f"{found[1]}.yaml").write_text(manifest)
    elif verb == "get" and words[0] == "jobset":
        if (CLUSTER / f"{words[1]}.yaml").exists():
            print(f"jobset.jobset.x-k8s.io/{words[1]}")
        elif "--ignore-not-found" not in arguments:
            sys.exit(f'Error from server (NotFound): jobsets.jobset.x-k8s.io "{words[1]}" not found')
    elif verb == "patch":
        (patch,) = [word.partition("=")[2] for word in arguments if word.startswith("--patch=")]
        (CLUSTER / f"{words[1]}.suspended").write_text(str(json.loads(patch)["spec"]["suspend"]))
    elif verb == "delete":
        (CLUSTER / f"{words[0].partition('/')[2]}.yaml").unlink(missing_ok=True)
    elif verb == "logs":
        print("loss 0.5")
    elif verb != "get":
        sys.exit(f'error: unknown command "{verb}"')


if __name__ == "__main__":
    main(sys.argv[1:])
