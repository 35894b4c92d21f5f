"""The GPU engine on a machine with a GPU: first whether it is right, then how fast it is, beside others.

    python benchmarks/gpu.py --output gpu.json

Below eight minutes, and it ends itself if something hangs: the tests that need a GPU (parity with the CPU in three
precisions, the same bits again); what the GPU reaches in copying and in products; 132 small fits at once and one after
another, which must agree; then an epoch of several networks by fastmlp, and by PyTorch (CUDA graphs, eager,
torch.compile) and JAX, if they are installed; last, in the time that is left, compute-sanitizer on tiny fits. Results
are written as they come; what cannot be run is reported as such. It fails if a test, the many fits or a sanitizer do.
``--device cpu`` runs the same code without a GPU, to test this script; so does ``--quick`` where FASTMLP_CUDA_LIBRARY
is the GPU engine on the host.
"""

import argparse
import faulthandler
import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold

import fastmlp
from fastmlp import MLPClassifier
from fastmlp._fit_many import fit_many

ROOT = Path(__file__).parents[1]
# layer sizes, rows, batch
WORKLOADS = {
    "784-256-128-10, 128": ((784, 256, 128, 10), 60000, 128),
    "784-256-128-10, 4096": ((784, 256, 128, 10), 60000, 4096),
    "54-256-256-7, 256": ((54, 256, 256, 7), 200000, 256),
    "64-100-10, 200": ((64, 100, 10), 50000, 200),
    "64-4x64-2, 65536": ((64, 64, 64, 64, 64, 2), 1 << 20, 65536),
    "1024-3x1024-10, 1024": ((1024, 1024, 1024, 1024, 10), 65536, 1024),
    "1024-4x1024-10, 16384": ((1024, 1024, 1024, 1024, 1024, 10), 1 << 17, 16384),
}
QUICK = {"20-32-3, 64": ((20, 32, 3), 2000, 64)}
# a search: layer sizes, rows, batch, epochs, learning rates, alphas, folds
SEARCH = ((64, 100, 10), 1797, 200, 50, (1e-4, 3e-4, 1e-3, 3e-3), (1e-5, 1e-4, 1e-3), 11)
QUICK_SEARCH = ((6, 10, 3), 100, 32, 2, (1e-3, 3e-3), (1e-4,), 3)
# One network for each kind of step: of many kernels, of one, and many steps of one; and two that train at once.
TINY_FITS = (
    "import numpy as np; from fastmlp import MLPClassifier; X = np.random.RandomState(0).randn(70, 9).astype('f')\n"
    "from fastmlp._fit_many import fit_many\n"
    "for units, normalization in (((130, 12), 'batch_norm'), ((20, 12), None), ((130, 12), None)):\n"
    "    MLPClassifier(units, device='cuda', batch_size=32, max_iter=2, normalization=normalization, dropout=0.2, "
    "precision='{0}').fit(X, X[:, 0] > 0)\n"
    "two = [MLPClassifier((20, 12), device='cuda', max_iter=2, dropout=0.2, precision='{0}') for _ in range(2)]\n"
    "if '{0}' != 'bf16': fit_many(two, X, X[:, 0] > 0)\n"
)
TEST_SECONDS, SANITIZER_SECONDS, LAST_SECONDS = 180, 60, 475  # of all tests; of one tool; after which all ends


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="where to write the results, as JSON")
    parser.add_argument("--device", default="cuda", help="'cpu' to test this script")
    parser.add_argument("--quick", action="store_true", help="one tiny network and no tests, to test this script")
    parser.add_argument("--seconds", type=float, default=390, help="after which no more measurements begin")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory
    status = fastmlp.cuda_status()
    if options.device != "cpu" and not status:
        sys.exit(f"device={options.device!r} cannot be used: {status}")
    faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)
    start = time.monotonic()
    results = {"machine": machine(status), "checks": {}, "ceilings": {}, "epochs": {}}
    checks_all = options.device != "cpu" and not options.quick
    if checks_all:
        note(results, options.output, "checks", "tests", attempt(run_tests))
        note(results, options.output, "checks", "tensors", attempt(lambda: tensors_on(options.device)))
    results["ceilings"] = attempt(lambda: ceilings(options.device))
    for precision in ("ieee", "tf32") if options.device != "cpu" else ("ieee",):
        found = attempt(lambda: many_fits(options, precision))  # noqa: B023 - called at once
        note(results, options.output, "checks", f"many fits {precision}", found)
    measure_epochs(results, options, start + options.seconds)
    if checks_all:
        left = start + LAST_SECONDS - 15 - time.monotonic()
        note(results, options.output, "checks", "sanitizer", attempt(lambda: run_sanitizers(left)))
    sys.exit(1 if failures(results["checks"]) else 0)


def failures(checks):
    """Names of the checks that failed, or did not come to an end, unless a sanitizer could not be run."""
    return [
        name for name, found in checks.items() if (found["failed"] if isinstance(found, dict) else name != "sanitizer")
    ]


def note(results, output, *place_and_value):
    """Put a value where it belongs, and all of it to disk: what comes next may end this process."""
    *place, name, value = place_and_value
    at = results
    for key in place:
        at = at.setdefault(key, {})
    at[name] = value
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")


def measure_epochs(results, options, deadline):
    """One way after the other, the most important first: what is late is left out for all networks alike."""
    for how, measure in ways(options.device).items():
        for name, workload in (QUICK if options.quick else WORKLOADS).items():
            late = time.monotonic() > deadline
            found = "no time was left" if late else attempt(lambda: measure(*workload))  # noqa: B023 - called at once
            note(results, options.output, "epochs", name, how, found)
            print(f"{name:24} {how:28} {found if isinstance(found, str) else f'{1e3 * found:.3f} ms'}", flush=True)


def attempt(measure):
    """Return what it measures, or why it could not, in one line."""
    try:
        return measure()
    except Exception as error:
        traceback.print_exc(limit=2)
        return f"{type(error).__name__}: {error}".splitlines()[0]


def machine(status):
    packages = {name: version(name) for name in ("numpy", "torch", "jax", "fastmlp")}
    return {"platform": platform.platform(), "status": str(status), "details": status.details, "versions": packages}


def version(name):
    if importlib.util.find_spec(name) is None:
        return None
    return getattr(importlib.import_module(name), "__version__", "unknown")


# --- whether it is right --------------------------------------------------------------------------------------------


def run_tests():
    """The tests that are marked ``cuda``; the first failures tell most, as one bad access spoils all that follows."""
    environment = {**os.environ, "FASTMLP_REQUIRE_CUDA": "1"}
    options = ["-q", "-m", "cuda", "--maxfail=8", "--tb=short", "-rfE", "-p", "no:cacheprovider"]
    options += ["-n", "4"] if importlib.util.find_spec("xdist") else []
    files = [f"tests/test_cuda_{what}.py" for what in ("hardware", "engine", "arrays", "fit_many")]
    command = [sys.executable, "-m", "pytest", *options, *files]
    try:
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TEST_SECONDS)
        code, said = ran.returncode, ran.stdout + ran.stderr
    except subprocess.TimeoutExpired as error:
        code, said = f"not done after {TEST_SECONDS} s", error.stdout or b""
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
    print(said[-6000:], flush=True)
    return {"failed": code != 0, "code": code, "summary": said.strip().splitlines()[-12:]}


def run_sanitizers(seconds):
    """Each tool of compute-sanitizer on fits of a few steps, while there is time; one that cannot run here says so."""
    program = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin"]))
    if not program:
        return "compute-sanitizer is not installed"
    found, deadline = {}, time.monotonic() + seconds
    for tool, precision in (
        ("memcheck", "tf32"),
        ("racecheck", "bf16"),
        ("synccheck", "ieee"),
        ("memcheck", "bf16"),
        ("racecheck", "ieee"),
        ("initcheck", "ieee"),
    ):
        left = min(SANITIZER_SECONDS, deadline - time.monotonic())
        found[f"{tool} {precision}"] = sanitized(program, tool, precision, left) if left > 5 else "no time was left"
        print(f"{tool} {precision}: {found[f'{tool} {precision}']}", flush=True)
    failed = any(isinstance(entry, dict) and entry["code"] == 99 for entry in found.values())
    return {"failed": failed, "tools": found}


def sanitized(program, tool, precision, seconds):
    command = [program, "--tool", tool, "--error-exitcode", "99", sys.executable, "-c", TINY_FITS.format(precision)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"took more than {seconds:.0f} s"
    return {"code": ran.returncode, "last": (ran.stdout + ran.stderr).strip().splitlines()[-3:]}


def tensors_on(device):
    """Whether a fit to PyTorch's tensors on the GPU gives the bits of one to arrays of the host; seconds of both."""
    import torch

    X, y = data((784, 10), 60000)
    seconds, models = {}, {}
    for place, rows, targets in (
        ("host", X, y),
        ("gpu", torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)),
    ):
        model = MLPClassifier(64, batch_size=4096, max_iter=1, random_state=0, device=device)
        model.fit(rows, targets)  # the first of all starts the GPU
        seconds[f"fit, {place}"] = timed(lambda: model.fit(rows, targets))  # noqa: B023 - called at once
        seconds[f"predict, {place}"] = timed(lambda: model.predict(rows))  # noqa: B023
        models[place] = model
    same = all(np.array_equal(a, b) for a, b in zip(models["host"].coefs_, models["gpu"].coefs_, strict=True))
    return {"failed": not same, "seconds": seconds}


# --- how fast it is -------------------------------------------------------------------------------------------------


def ceilings(device):
    """What copies and products reach here, in GB/s read and written and in TFLOP/s."""
    import torch

    def rate(work, amount):
        for _ in range(3):
            work()
        synchronize(device)
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(5):
                work()
            synchronize(device)
            best = max(best, 5 * amount / (time.perf_counter() - start))
        return best

    n, width = (1 << 28, 8192) if device != "cpu" else (1 << 20, 256)
    source = torch.zeros(n, device=device)
    target = torch.empty_like(source)
    found = {"copy": rate(lambda: target.copy_(source), 8 * n / 1e9)}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.randn(width, width, device=device).to(dtype)
        found[name] = rate(lambda: a @ a, 2 * width**3 / 1e12)  # noqa: B023 - called at once
    return found


def synchronize(device):
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def data(sizes, n_rows):
    random = np.random.RandomState(0)
    X = random.standard_normal((n_rows, sizes[0])).astype(np.float32)
    return X, random.randint(0, sizes[-1], n_rows)


def ways(device):
    """How an epoch can be trained: name -> function of layer sizes, rows and batch that returns its seconds."""
    precisions = ("ieee", "tf32", "bf16") if device != "cpu" else ("ieee",)
    found = {
        f"fastmlp {precision}": lambda *workload, precision=precision: fastmlp_epoch(device, precision, *workload)
        for precision in precisions
    }
    if device != "cpu":  # steps of many kernels, where the engine would take them in one
        found["fastmlp tf32, products"] = lambda *workload: by_products(fastmlp_epoch, device, "tf32", *workload)
    others = {}
    if importlib.util.find_spec("torch"):
        for how in ("graph", "eager", "compile") if device != "cpu" else ("eager",):
            for precision in precisions:
                others[f"torch {how} {precision}"] = lambda *workload, how=how, precision=precision: torch_epoch(
                    device, how, precision, *workload
                )
    if importlib.util.find_spec("jax"):
        for precision in precisions[:2]:
            others[f"jax {precision}"] = lambda *workload, precision=precision: jax_epoch(device, precision, *workload)
    return found | dict(sorted(others.items(), key=lambda way: "compile" in way[0]))  # which takes longest to start


def by_products(measure, *what):
    os.environ["FASTMLP_CUDA_STEP"] = "products"
    try:
        return measure(*what)
    finally:
        del os.environ["FASTMLP_CUDA_STEP"]


def fastmlp_epoch(device, precision, sizes, n_rows, batch):
    """Seconds of an epoch: what more epochs take longer, so that neither the start nor the copy of the data counts."""
    X, y = data(sizes, n_rows)

    def seconds(n_epochs):
        model = MLPClassifier(
            sizes[1:-1], batch_size=batch, max_iter=n_epochs, tol=0, n_iter_no_change=np.inf, random_state=0,
            device=device, precision=precision,
        )  # fmt: skip
        start = time.perf_counter()
        model.fit(X, y)
        return time.perf_counter() - start

    first = min(seconds(1) for _ in range(2))
    more = 4
    while (longer := min(seconds(1 + more) for _ in range(2)) - first) < 0.2 and more < 4096:
        more *= 4
    return longer / more


def many_fits(options, precision):
    """Seconds of all fits of a search, at once and one after another, and whether their losses are the same."""
    search = QUICK_SEARCH if options.quick else SEARCH
    sizes, n_rows, batch, n_epochs, rates, alphas, n_folds = search
    X, y = data(sizes, n_rows)
    parts = KFold(n_folds, shuffle=True, random_state=0)
    folds = [rows for rows, _ in parts.split(X)] * (len(rates) * len(alphas))

    def models(n_epochs, **where):
        return [
            MLPClassifier(
                sizes[1:-1], batch_size=batch, max_iter=n_epochs, tol=0, n_iter_no_change=np.inf, random_state=fold,
                learning_rate_init=rate, alpha=alpha, **where,
            )
            for rate, alpha, fold in product(rates, alphas, range(n_folds))
        ]  # fmt: skip

    def one_after_another(some):
        return timed(lambda: [model.fit(X[rows], y[rows]) for model, rows in zip(some, folds, strict=True)])

    on_gpu = {"device": options.device, "precision": precision}
    fit_many(models(1, **on_gpu), X, y, row_indices=folds)  # starts the GPU
    at_once, again, alone = (models(n_epochs, **on_gpu) for _ in range(3))
    seconds = {
        "at once": min(timed(lambda: fit_many(some, X, y, row_indices=folds)) for some in (at_once, again)),  # noqa: B023
        "one after another": one_after_another(alone),
    }
    others = [alone]
    if precision == "ieee":
        others.append(models(n_epochs))
        seconds["one after another, CPU"] = one_after_another(others[-1])
    losses, *other_losses = ([model.loss_ for model in some] for some in (at_once, *others))
    differences = [float(np.max(np.abs(np.divide(losses, other) - 1))) for other in other_losses]
    same_bits = all(np.array_equal(a.coefs_[0], b.coefs_[0]) for a, b in zip(at_once, again, strict=True))
    found = {
        "fits": len(folds),
        "seconds": seconds,
        "times as fast": seconds["one after another"] / seconds["at once"],
        "relative differences of losses": differences,
        "same bits again": same_bits,
    }
    print(f"many fits, {precision}: {found}", flush=True)
    return found | {"failed": not same_bits or max(differences) > (1e-2 if precision == "ieee" else 0.1)}


def torch_epoch(device, how, precision, sizes, n_rows, batch):
    """An epoch of PyTorch's best for this: fused Adam, data on the GPU, rows chosen there."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    X, y = (torch.from_numpy(array).to(device) for array in data(sizes, n_rows))
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(device)
    on_gpu = {"fused": True, "capturable": True} if device != "cpu" else {}
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4, **on_gpu)

    def forward(rows):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            return torch.nn.functional.cross_entropy(model(X[rows]), y[rows])

    if how == "compile":
        forward = torch.compile(forward, mode="reduce-overhead")

    def step(rows):
        if how == "compile":
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        loss = forward(rows)
        loss.backward()
        optimizer.step()

    rows = torch.arange(batch, device=device)
    take = graph_of(step, rows) if how == "graph" else step

    def epoch():
        for part in torch.randperm(n_rows, device=device)[: n_rows // batch * batch].split(batch):
            take(part)
        synchronize(device)

    epoch()
    return min(timed(epoch) for _ in range(3))


def graph_of(step, rows):
    """The step as a CUDA graph, on rows that are copied to where it expects them."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(rows)

    def take(part):
        rows.copy_(part)
        graph.replay()

    return take


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def jax_epoch(device, precision, sizes, n_rows, batch):
    """A whole epoch in one compiled loop."""
    import jax
    import jax.numpy as jnp

    if device != "cpu" and jax.default_backend() != "gpu":
        raise RuntimeError("this JAX has no GPU")
    jax.config.update("jax_default_matmul_precision", {"ieee": "float32", "tf32": "tensorfloat32"}[precision])
    X, y = (jnp.asarray(array) for array in data(sizes, n_rows))
    random = np.random.RandomState(0)
    weights = [
        (jnp.asarray(random.standard_normal((a, b)) / np.sqrt(a), jnp.float32), jnp.zeros(b))
        for a, b in pairwise(sizes)
    ]
    moments = jax.tree.map(lambda w: (jnp.zeros_like(w), jnp.zeros_like(w)), weights)

    def loss(weights, X, y, rows):
        a = X[rows]
        for i, (w, b) in enumerate(weights):
            a = a @ w + b
            a = jax.nn.relu(a) if i + 1 < len(weights) else a
        return -jnp.take_along_axis(jax.nn.log_softmax(a), y[rows][:, None], 1).mean()

    def step(X, y, carry, rows):
        weights, moments, t = carry
        rate = 1e-3 * jnp.sqrt(1 - 0.999 ** (t + 1.0)) / (1 - 0.9 ** (t + 1.0))
        flat, tree = jax.tree.flatten(weights)
        pairs = tree.flatten_up_to(moments)
        slopes = jax.tree.leaves(jax.grad(loss)(weights, X, y, rows))
        pairs = [(0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g) for (m, v), g in zip(pairs, slopes, strict=True)]
        flat = [w - rate * m / (jnp.sqrt(v) + 1e-8) for w, (m, v) in zip(flat, pairs, strict=True)]
        return (tree.unflatten(flat), tree.unflatten(pairs), t + 1), None

    @jax.jit
    def epoch(carry, key, X, y):  # data that it closed over would become constants of the program
        order = jax.random.permutation(key, n_rows)[: n_rows // batch * batch].reshape(-1, batch)
        return jax.lax.scan(functools.partial(step, X, y), carry, order)[0]

    carry, key = (weights, moments, 0), jax.random.key(0)
    jax.block_until_ready(epoch(carry, key, X, y))
    return min(timed(lambda: jax.block_until_ready(epoch(carry, key, X, y))) for _ in range(3))


if __name__ == "__main__":
    main()
