"""From an experiment module to a run: parse, describe or train."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vision.errors import UserError
from vision.launch import run_folder as work
from vision.launch.describe import describe, describe_on, simulate_devices
from vision.launch.devices import compiler_of, use_compilation_cache
from vision.launch.exit_code import exit_code
from vision.launch.extend import check_extends, extend
from vision.launch.fit import fit
from vision.launch.inputs import paths_of
from vision.launch.options import HELP, Parsed, nested, parse
from vision.launch.prove import recording_compiler
from vision.launch.replicas import ReplicaOptions, parse_sweep, vectorized
from vision.launch.run_folder import newest_checkpoint
from vision.launch.short_help import short_help
from vision.parallel.agreement import check_equal, first_alone
from vision.parallel.mesh import devices_needed
from vision.parallel.processes import start
from vision.parallel.topology import parse_topology, prepare
from vision.train.experiment import Experiment


def main(
    name: str,
    *,
    config: Any,
    quick: Any,
    build: Callable[[Any], Experiment],
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run an experiment module from its command line; returns the exit code, see ``vision.launch.exit_code``.

    Args:
      name: the module's name, which names its run folders.
      config: the default configuration, a frozen dataclass.
      quick: the configuration of ``--quick``.
      build: configuration -> experiment.
      description: the module's docstring.
      arguments: what to parse instead of the process's own arguments.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)

    def act() -> None:
        if HELP & set(words) and "--help-all" not in words:
            print(
                short_help(name, config=quick if "--quick" in words else config, build=build, description=description)
            )
            return
        parsed = parse(
            f"python -m experiments.{name}", default=config, quick=quick, description=description, arguments=words
        )
        run(name, parsed, build, description)

    return exit_code(act)


def run(name: str, parsed: Parsed[Any], build: Callable[[Any], Experiment], description: str) -> None:
    """Train, or describe, as the parsed command line says."""
    config, options = parsed.config, parsed.run
    if options.topology is not None and not options.dry_run:
        raise UserError(
            f"--topology {options.topology} names devices that programs are only compiled for: add --dry-run"
        )
    topology = parse_topology(options.topology) if options.topology is not None else None
    if topology is not None:
        prepare(topology)
    else:
        use_compilation_cache()
    replicas = ReplicaOptions(options.seeds, parse_sweep(options.sweep), options.replicas_by)
    built = (lambda config: vectorized(build, config, replicas)) if replicas else build
    experiment = built(config)
    if topology is not None:
        compiler = recording_compiler(experiment, topology)
        print(describe_on(experiment, compiler, topology, config=config, default=parsed.default))
        return
    if options.dry_run:
        simulate_devices(devices_needed(experiment.mesh))
        print(describe(experiment, compiler_of(experiment), config=config, default=parsed.default))
        return
    start(options.processes, os.environ)
    compiler = compiler_of(experiment)
    folder = options.workdir or work.default_workdir(
        name,
        quick=options.quick,
        config=config,
        default=parsed.default,
        replicas=replicas.stored(),
        places=experiment.places,
    )
    check_equal("what they were started with", (folder, nested(config), replicas))
    locks: list[int] = []
    paths = list(paths_of(config))
    first_alone(lambda: locks.append(work.claim(folder, name, config, replicas=replicas.stored(), places=paths)))
    try:
        if (source := options.extend) is not None and newest_checkpoint(folder) is None:
            stored = replicas.stored()
            step = check_extends(source, name, config, replicas=stored, build=built, compiler=compiler)
            first_alone(lambda: extend(source, folder, step))
        fit(
            name,
            experiment,
            compiler,
            folder,
            parsed,
            description,
            after_check=lambda: work.write_config(folder, name, config, replicas=replicas.stored()),
        )
    finally:
        for lock in locks:
            os.close(lock)
