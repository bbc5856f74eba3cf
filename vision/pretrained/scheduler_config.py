"""The diffusion process of a published network, by the scheduler_config.json that diffusers keeps with it.

In a pipeline, the file is in the folder ``scheduler`` next to the network's, or, of several networks, in one named
after it; it may also be in the network's own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError, on_one_line
from vision.home import expanded

FILE = "scheduler_config.json"
_MOST = 1 << 20
_BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_UNCLIP = "UnCLIPScheduler"
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_DISCRETE = (
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    _UNCLIP,
    "UniPCMultistepScheduler",
)


@dataclass(frozen=True, kw_only=True)
class PublishedProcess:
    """What a network was trained for, as the fields of ``diffusion`` in a recipe."""

    schedule: str
    steps: int = 1000
    zero_terminal_snr: bool = False
    prediction: str = "epsilon"
    data_deviation: float = 0.5


def find_scheduler_config(folder: Path) -> Path | None:
    """The scheduler_config.json of the network in a folder; None where there is none."""
    folder = expanded(folder)
    parent = folder.parent
    places = (folder / FILE, parent / f"{folder.name}_scheduler" / FILE, parent / "scheduler" / FILE)
    return next((place for place in places if place.is_file()), None)


def read_scheduler_config(file: Path) -> PublishedProcess:
    """The process that a scheduler_config.json describes.

    Raises ``UserError`` where it cannot be read, or describes a process that this project has not.
    """
    values = _read(file)
    kind = values.get("_class_name")
    if kind in _FLOWS:
        return PublishedProcess(schedule="flow", prediction="velocity")
    if kind in _EDM:
        return _edm(values, file)
    if kind in _DISCRETE:
        return _discrete(values, file)
    if kind == _UNCLIP:
        # a schedule without a choice
        return _discrete({**values, "beta_schedule": values.get("beta_schedule", "squaredcos_cap_v2")}, file)
    raise UserError(
        f"{file} is of {on_one_line(repr(kind), 60)}, whose process is not known here: use a network whose scheduler "
        f"is one of {', '.join((*_FLOWS, *_EDM, *_DISCRETE[:5]))}, ..."
    )


def clip_range(file: Path) -> float | None:
    """What the scheduler of a scheduler_config.json keeps estimates of x_0 within, plus and minus; None for nothing.

    Raises ``UserError`` where the file cannot be read, or has no such number.
    """
    values = _read(file)
    clips = _only(values, "clip_sample", (True, False), values.get("_class_name") in (_UNCLIP, *_DISCRETE[:3]), file)
    found = values.get("clip_sample_range", 1.0)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < 1e6:
        raise UserError(f"{file} has clip_sample_range {on_one_line(repr(found), 40)}, which is no range: correct it")
    return float(found) if clips else None


def unclip_scheduler(process: PublishedProcess, *, limit: float | None) -> dict[str, Any] | None:
    """The scheduler_config.json of a prior, UnCLIPScheduler's; None where that has no such process.

    Args:
      process: of the network.
      limit: what estimates are kept within, plus and minus; None for nothing.
    """
    predictions = {"epsilon": "epsilon", "x0": "sample"}
    if process.schedule != "cosine" or process.zero_terminal_snr or process.prediction not in predictions:
        return None
    return {
        "_class_name": _UNCLIP,
        "num_train_timesteps": process.steps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": predictions[process.prediction],
        "variance_type": "fixed_small_log",
        "clip_sample": limit is not None,
        "clip_sample_range": 1.0 if limit is None else limit,
    }


def scheduler_config(process: PublishedProcess) -> dict[str, Any] | None:
    """The scheduler_config.json of a process; None where diffusers has no scheduler for it."""
    predictions = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
    if process.schedule == "flow":
        velocity = process.prediction == "velocity"
        return {"_class_name": _FLOWS[0], "num_train_timesteps": 1000, "shift": 1.0} if velocity else None
    if process.schedule == "edm":
        stated = {"_class_name": _EDM[0], "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": process.data_deviation}
        return {**stated, "prediction_type": "epsilon"} if process.prediction == "edm" else None
    names = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    if process.schedule not in names or process.prediction not in predictions:
        return None
    first, last = _BETAS.get(process.schedule, (1e-4, 0.02))
    scale = 1000 / process.steps if process.schedule in _BETAS else 1.0
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": process.steps,
        "beta_schedule": names[process.schedule],
        "beta_start": first * scale,
        "beta_end": min(last * scale, 0.999),
        "prediction_type": predictions[process.prediction],
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "timestep_spacing": "trailing",
        "clip_sample": True,
    }


def _read(file: Path) -> Mapping[str, Any]:
    """The entries. Raises ``UserError`` where there are none."""
    if file.stat().st_size > _MOST:
        raise UserError(f"{file} was not read: it has more than {_MOST:,} bytes; fetch it again")
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({on_one_line(str(error))}): fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no table of entries: fetch it again")
    return values


def _edm(values: Mapping[str, Any], file: Path) -> PublishedProcess:
    _only(values, "prediction_type", ("epsilon",), "epsilon", file)
    deviation = values.get("sigma_data", 0.5)
    if not isinstance(deviation, int | float) or isinstance(deviation, bool) or not 0 < deviation < 1e6:
        raise UserError(f"{file} has sigma_data {on_one_line(repr(deviation), 40)}, which is no deviation: correct it")
    return PublishedProcess(schedule="edm", prediction="edm", data_deviation=float(deviation))


def _discrete(values: Mapping[str, Any], file: Path) -> PublishedProcess:
    if values.get("use_flow_sigmas"):
        return PublishedProcess(schedule="flow", prediction="velocity")
    if values.get("trained_betas") is not None:
        raise UserError(f"{file} has trained_betas, a schedule of its own, which has no name here: use another network")
    steps = values.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 10 <= steps <= 1_000_000:
        raise UserError(
            f"{file} has num_train_timesteps {on_one_line(repr(steps), 40)}, which is no number of steps: correct it"
        )
    names = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    default = "squaredcos_cap_v2" if values["_class_name"] == _UNCLIP else "linear"
    schedule = names[_only(values, "beta_schedule", tuple(names), default, file)]
    if schedule in _BETAS:
        found = values.get("beta_start", 1e-4), values.get("beta_end", 0.02)
        expected = tuple(beta * 1000 / steps for beta in _BETAS[schedule])
        numbers = all(isinstance(beta, int | float) and not isinstance(beta, bool) for beta in found)
        if not numbers or any(abs(one - other) > 1e-6 * other for one, other in zip(found, expected, strict=True)):
            raise UserError(
                f"{file} has the betas {on_one_line(repr(found), 60)}, and the schedule {schedule} of this project has "
                f"{expected}: a network of other betas is not supported"
            )
    predictions = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
    prediction = predictions[_only(values, "prediction_type", tuple(predictions), "epsilon", file)]
    return PublishedProcess(
        schedule=schedule,
        steps=steps,
        zero_terminal_snr=_only(values, "rescale_betas_zero_snr", (False, True), False, file),
        prediction=prediction,
    )


def _only(values: Mapping[str, Any], name: str, possible: tuple[Any, ...], default: Any, file: Path) -> Any:
    value = values.get(name, default)
    if not any(value == each and type(value) is type(each) for each in possible):
        words = " or ".join(map(repr, possible))
        raise UserError(
            f"{file} has {name} {on_one_line(repr(value), 60)}, and only {words} is supported here: use a network of "
            "that kind"
        )
    return value


def differing_fields(published: PublishedProcess, own: Mapping[str, Any]) -> dict[str, Any]:
    """The published fields that differ from those of a recipe; the number of steps counts for discrete times alone."""
    stated = asdict(published)
    if published.schedule in ("flow", "edm"):
        del stated["steps"]
    if published.schedule != "edm":
        del stated["data_deviation"]
    return {name: value for name, value in stated.items() if own[name] != value}
