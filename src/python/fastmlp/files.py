"""Model files: safetensors with one JSON header. Reading one never runs code; no scikit-learn here.

A file holds the tensors ``coefs.0``, ``intercepts.0``, ``coefs.1`` ..., those of normalisation and skips, and, if asked
for, what training needs to go on.
All else stands in the header, a JSON text under ``fastmlp`` in the metadata; ``docs/design/0009-model-files.md``
describes it. A change that old readers would misunderstand raises ``FORMAT_VERSION``, and old files stay readable: each
version has its golden file in the tests.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastmlp import _core
from fastmlp._losses import OUTPUT_ACTIVATIONS
from fastmlp._parameters import array_shapes, cut
from fastmlp._validation import NORMALIZATIONS, name_among, unit_counts
from fastmlp.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Header: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, "NDArray[Any]"]

MODEL = "fastmlp"  # the key of the header in the metadata
FORMAT_VERSION = 2  # 1 is still written for networks that it can describe
MOST_LABEL_BYTES = 2**26  # a short file must not ask for much memory: "<U999999999" is a dtype too
_LABEL_DTYPES = r"\|b1|[<>|][iu][1248]|[<>]f[248]|[<>]U\d{1,8}|\|O"


class ModelFileError(ValueError):
    """A file that is not a model file this version can read: corrupt, truncated, newer, or something else."""


def load(path: str | os.PathLike[str], *, assume_finite: bool = False, n_jobs: int | None = None) -> Predictor:
    """Read a model file for predictions. Needs no scikit-learn; runs no code from the file.

    Parameters
    ----------
    path : str or path-like
        A file that an estimator's ``save`` wrote.
    assume_finite : bool, default=False
        Skip the search for NaN and infinity in data.
    n_jobs : int or None, default=None
        Threads: None lets the core choose, -1 takes all that the process may use.

    Returns
    -------
    predictor : Predictor
        What ``compile()`` of the saved estimator gives.

    Raises
    ------
    ModelFileError
        If the file is corrupt, truncated, newer than this version can read, or no model file. It is a ``ValueError``.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import fastmlp, os, tempfile
    >>> X, y = [[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]
    >>> model = fastmlp.MLPRegressor(hidden_layer_sizes=(4,), max_iter=500, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     model.save(path)
    ...     predictor = fastmlp.load(path)
    >>> bool((predictor([[1.5]]) == model.predict([[1.5]])).all())
    True
    """
    with errors_name(path):
        header, tensors = read(path)
        return build_predictor(header, tensors, assume_finite, n_jobs)


# --- a predictor as header and tensors --------------------------------------------------------------------------------


def describe(predictor: Predictor, parameters: NDArray[Any], provenance: Header) -> tuple[Header, Tensors]:
    """Return the header and the tensors of a predictor; ``parameters`` are its own, maybe in a wider dtype."""
    names, network = predictor.feature_names_in_, predictor.network
    header: Header = {
        "format_version": 1 if network.is_plain else 2,
        "network": {
            "layer_sizes": list(predictor.layer_sizes),
            "activations": list(predictor.activations),
            "loss": predictor.loss,
            "loss_parameters": dict(predictor.loss_parameters or {}),
            "out_activation": predictor.out_activation_,
        },
        "dtype": predictor.dtype.name,
        "target_type": predictor.target_type,
        "classes": None if predictor.classes_ is None else encode_labels(predictor.classes_),
        "feature_names": None if names is None else names.tolist(),
        "preprocessing": None,
        "provenance": {"fastmlp": _core.__version__, **provenance},
    }
    if not network.is_plain:
        header["network"] |= {"normalizations": network.normalizations, "residual": network.residual}
    return header, _by_name(cut(parameters, array_shapes(network)))


def build_predictor(header: Header, tensors: Tensors, assume_finite: bool, n_jobs: int | None) -> Predictor:
    """Return the predictor that a header and tensors describe, after checking every part of it."""
    described = entry(header, "network", dict)
    if header.get("preprocessing") is not None:
        raise ValueError(f"'preprocessing' must be null in version 1, found {header['preprocessing']!r}")
    dtype = entry(header, "dtype", str)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"'dtype' must be 'float32' or 'float64', found {dtype!r}")
    classes, names = entry(header, "classes", dict, None), entry(header, "feature_names", list, None)
    predictor = Predictor(
        stored_parameters(header, tensors).astype(dtype, copy=False),
        tuple(entry(described, "layer_sizes", list)),
        tuple(entry(described, "activations", list)),
        entry(described, "loss", str),
        entry(header, "target_type", str),
        None if classes is None else decode_labels(classes),
        None if names is None else np.array(names, dtype=object),
        assume_finite,
        n_jobs,
        described.get("loss_parameters"),  # older files have none
        *_hidden_extras(described),
        _output_activation(described),
    )
    if entry(described, "out_activation", str) != predictor.out_activation_:
        raise ValueError(
            f"'out_activation' must be {predictor.out_activation_!r} for the loss {predictor.loss!r}, "
            f"found {described['out_activation']!r}"
        )
    return predictor


def stored_parameters(header: Header, tensors: Tensors) -> NDArray[Any]:
    """Return all parameters as one flat array in the dtype in which they were saved."""
    described = entry(header, "network", dict)
    sizes = unit_counts(entry(described, "layer_sizes", list), "layer_sizes")
    if len(sizes) < 2:
        raise ValueError(f"layer_sizes must name at least an input and an output layer, got {sizes}")
    normalizations, residual = _hidden_extras(described)
    activations = ["identity"] * (len(sizes) - 2)  # shapes depend on no activation, and on no loss
    network = _core.Network(sizes, activations, "squared_error", {}, normalizations, (), residual)
    shapes = _by_name(array_shapes(network))
    dtypes = set()
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"layers of {sizes} units need the tensor {name!r}, found {', '.join(tensors) or 'none'}")
        if tensors[name].shape != shape:
            raise ValueError(f"the tensor {name!r} must have shape {shape}, found {tensors[name].shape}")
        dtypes.add(tensors[name].dtype.name)
    if dtypes not in ({"float32"}, {"float64"}):
        raise ValueError(f"coefs and intercepts must all be float32 or all float64, found {', '.join(sorted(dtypes))}")
    return np.concatenate([tensors[name].ravel() for name in shapes])


def _hidden_extras(described: Header) -> tuple[tuple[str, ...], bool]:
    """Return normalisations and whether there are skips; files of version 1 tell nothing of them."""
    names = entry(described, "normalizations", list) if "normalizations" in described else []
    for name in names:
        name_among(name, NORMALIZATIONS, "normalization")
    return tuple(names), entry(described, "residual", bool) if "residual" in described else False


def _output_activation(described: Header) -> str:
    """Return the activation before the loss: the output activation, if the loss has none of its own."""
    name, link = entry(described, "out_activation", str), OUTPUT_ACTIVATIONS.get(entry(described, "loss", str))
    return name if link == "identity" and name in _core.output_activations() else "identity"


def _by_name(arrays: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return what there is by the names of tensors, in the order of the flat parameters."""
    return {
        f"{kind}.{layer}": array
        for kind, of_layers in arrays.items()
        for layer, array in enumerate(of_layers)
        if array is not None
    }


# --- values as JSON ---------------------------------------------------------------------------------------------------


def encode(value: Any, name: str) -> Any:
    """Return a parameter in JSON's types; ``decode`` gives it back. NumPy's numbers become Python's, arrays lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no infinity
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        values = [encode(item, name) for item in value]
        return values if isinstance(value, list) else {"tuple": values}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, name) for key, item in value.items()}}
    if isinstance(value, dict):
        items = [[encode(key, name), encode(item, name)] for key, item in value.items()]
        if not any(isinstance(key, list | dict) for key, _ in items):
            return {"items": items}
    from fastmlp import schedules  # here and in `decode` only: most models have none, and to load them must be quick

    if type(value) in schedules.KINDS:
        return {"schedule": type(value).__name__, **{field: encode(part, name) for field, part in vars(value).items()}}
    raise ValueError(
        f"{name}={value!r} cannot be saved; allowed are None, bool, int, float, str, schedules of fastmlp, and lists, "
        "tuples, arrays and dicts of them"
    )


def decode(value: Any) -> Any:
    """Undo ``encode``."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(decode(item) for item in value["tuple"])
    if value.keys() == {"dict"} and isinstance(value["dict"], dict):
        return {key: decode(item) for key, item in value["dict"].items()}
    if value.keys() == {"items"} and isinstance(value["items"], list):
        pairs = [pair for pair in value["items"] if isinstance(pair, list) and len(pair) == 2]
        if len(pairs) == len(value["items"]) and not any(isinstance(key, list | dict) for key, _ in pairs):
            return {key: decode(item) for key, item in pairs}
    if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
        return float(value["float"])
    if "schedule" in value:
        from fastmlp import schedules

        return schedules.build(value["schedule"], {k: decode(part) for k, part in value.items() if k != "schedule"})
    raise ValueError(
        "objects in parameters must be {'tuple': [...]}, {'dict': {...}}, {'items': [[key, value], ...]}, "
        f"{{'float': 'inf'}} or {{'schedule': ...}}, found {value!r}"
    )


def encode_labels(labels: NDArray[Any]) -> Header:
    """Return class labels and their exact dtype in JSON's types."""
    values = labels.tolist()
    plain = all(type(value) in (bool, int, float, str) for value in values)
    if not plain or not re.fullmatch(_LABEL_DTYPES, labels.dtype.str):
        raise ValueError(
            f"classes_ of dtype {labels.dtype} cannot be saved; allowed are bools, integers, float16 to float64, "
            "strings, and objects that are Python's bool, int, float or str"
        )
    if labels.nbytes > MOST_LABEL_BYTES:
        raise ValueError(f"classes_ must take at most {MOST_LABEL_BYTES} bytes to be saved, got {labels.nbytes}")
    return {"dtype": labels.dtype.str, "values": values}


def decode_labels(encoded: Header) -> NDArray[Any]:
    """Undo ``encode_labels``."""
    dtype, values = entry(encoded, "dtype", str), entry(encoded, "values", list)
    if not re.fullmatch(_LABEL_DTYPES, dtype):
        raise ValueError(f"the dtype of classes must be one of bools, integers, floats, strings, found {dtype!r}")
    if np.dtype(dtype).itemsize * len(values) > MOST_LABEL_BYTES:
        raise ValueError(f"classes must take at most {MOST_LABEL_BYTES} bytes, found {len(values)} of {dtype!r}")
    if not all(type(value) in (bool, int, float, str) for value in values):
        raise ValueError(f"classes must be bools, numbers and strings, found {values!r}")
    labels = np.array(values, dtype)
    if labels.tolist() != values:
        raise ValueError(f"classes do not fit their dtype {dtype!r}: {values!r}")
    return labels


def entry(mapping: Mapping[str, Any], name: str, *kinds: type | None) -> Any:
    """Return an entry of the header that must be there and be of one of these types; None stands for null."""
    found = mapping.get(name, ...)
    if not any(found is None if kind is None else type(found) is kind for kind in kinds):
        allowed = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
        raise ValueError(f"{name!r} must be of type {allowed}, found {'nothing' if found is ... else repr(found)}")
    return found


# --- the file itself --------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], header: Header, tensors: Tensors, kind: str = MODEL) -> None:
    """Write a file of this kind: same content, same bytes; the path holds the old file or all of the new one."""
    import safetensors.numpy  # here and in `read` only: estimators need not wait for it

    little = {name: np.require(array, array.dtype.newbyteorder("<"), "C") for name, array in tensors.items()}
    sealed = {**header, "crc32": _checksum(header, little)}
    # a single key: safetensors writes several in an order that changes from call to call
    metadata = {kind: json.dumps(sealed, allow_nan=False, separators=(",", ":"))}
    _replace(os.path.realpath(path), safetensors.numpy.save(little, metadata))  # a symbolic link stays one


def read(
    path: str | os.PathLike[str], kind: str = MODEL, newest_version: int = FORMAT_VERSION
) -> tuple[Header, Tensors]:
    """Read header and tensors, and check that they are what was written, by a version that this one understands."""
    import safetensors.numpy

    with open(path, "rb") as file:
        content = file.read()
    try:
        tensors = dict(sorted(safetensors.numpy.load(content).items()))
    except Exception as error:  # its own errors, and KeyError for a dtype that NumPy lacks
        raise ValueError(f"foreign, corrupt or truncated, no safetensors file: {error}") from error
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    if kind not in metadata:
        found = ", ".join(map(repr, metadata)) or "none"
        raise ValueError(f"a safetensors file of something else: its metadata needs {kind!r}, found {found}")
    header = json.loads(metadata[kind])
    if type(header) is not dict:
        raise ValueError(f"the header must be a JSON object, found {header!r}")
    version = entry(header, "format_version", int)
    if not 1 <= version <= newest_version:
        raise ValueError(
            f"format version {version}, but fastmlp {_core.__version__} reads 1 to {newest_version}: "
            "install a newer fastmlp"
        )
    stored = header.pop("crc32", None)
    actual = _checksum(header, tensors)
    if stored != actual:
        raise ValueError(f"corrupt: the checksum must be {stored!r}, found {actual}")
    return header, tensors


@contextmanager
def errors_name(path: str | os.PathLike[str], what: str = "model file") -> Iterator[None]:
    """Turn what is wrong with a file's content into an error that names the file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{os.fspath(path)!r} is not a {what} that can be read: {error}") from error


def _checksum(header: Header, tensors: Tensors) -> int:
    """CRC-32 of the header in a fixed order, and of names, dtypes, shapes and numbers of all tensors."""
    crc = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return crc


def _replace(path: str, content: bytes) -> None:
    """Write beside the file and rename: others, and a crash, see the old content or the new, not between."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, os.stat(path).st_mode & 0o7777)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        with suppress(OSError):  # the new name, too, should survive a loss of power; not every file system can do it
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
