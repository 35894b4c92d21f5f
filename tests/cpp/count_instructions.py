"""Guard the hot kernels by the number of instructions that they execute.

Timings on a shared machine are too noisy to notice a loss of some percent; the number of instructions is the same in
every run. It depends on the compiler, so the record, ``instructions.json``, holds one set of counts for each version.

    python tests/cpp/count_instructions.py             fail if a kernel executes over 3 % more than is on record
    python tests/cpp/count_instructions.py --record    write the counts of this tree and this compiler to the record

Needs valgrind, CMake and a processor with AVX2.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RECORD = FOLDER / "instructions.json"
WORKLOADS = ["small", "middle"]  # see count_instructions.cpp
ALLOWED = 0.03


def build(folder):
    """Compile the program that trains the workloads; returns its path."""
    settings = ["-DFASTMLP_KERNEL_TESTS=ON", "-DSKBUILD_PROJECT_VERSION=0"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *settings], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--target", "count_avx2"], check=True, stdout=subprocess.DEVNULL)
    return Path(folder) / "tests/cpp/count_avx2"


def profile(program, workload):
    """Run a workload under callgrind; returns the profile as text."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        ran = subprocess.run([*command, program, workload], capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(f"{' '.join(map(str, [*command, program, workload]))} failed:\n{ran.stderr}")
        return out.read_text()


def inclusive_counts(text):
    """Instructions of each function and of all that it calls, from a profile in callgrind's format."""
    names, counts, function = {}, {}, ""
    for line in text.splitlines():
        if match := re.match(r"c?fn=\((\d+)\)(?: (.+))?", line):
            name = names.setdefault(match[1], match[2])
            if line.startswith("fn="):
                function = name
        elif re.match(r"[\d+*-]", line):  # position and cost: of the function itself, or of a call just named
            counts[function] = counts.get(function, 0) + int(line.split()[1])
    return counts


def kernel_counts(text, kernels):
    """The counts of the kernels by their short names, and of a whole epoch."""
    counts = {}
    for function, count in inclusive_counts(text).items():
        match = re.search(
            r"(?:avx2::\(anonymous namespace\)::(\w+)<float>|CpuEngine<float>::(epoch))\([^{]*$", function
        )
        name = match and (match[1] or match[2])
        if name in kernels | {"epoch"}:
            counts[name] = counts.get(name, 0) + count
    return counts


def table_of_kernels():
    """Names in the table that a kernel set exports: these are functions of their own, whatever is inlined into them."""
    return set(re.findall(r"\(\*(\w+)\)\(", (ROOT / "src/cpp/cpu/kernels.hpp").read_text()))


def regressions(recorded, counted):
    """Say which kernels of which workloads execute more than is allowed, or are on one side only."""
    for workload in recorded.keys() | counted.keys():
        before, now = recorded.get(workload, {}), counted.get(workload, {})
        for kernel in sorted(before.keys() | now.keys()):
            if kernel not in before or kernel not in now:
                yield f"{workload}: {kernel} is not {'recorded' if kernel in now else 'executed any more'}"
            elif now[kernel] > (1 + ALLOWED) * before[kernel]:
                change = f"{before[kernel]} -> {now[kernel]} instructions"
                yield f"{workload}: {kernel}: {change} ({now[kernel] / before[kernel] - 1:+.1%})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the counts to the record")
    parser.add_argument("--build", metavar="FOLDER", help="build there, and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        program = build(options.build or scratch)
        compiler = subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()
        kernels = table_of_kernels()
        counted = {workload: kernel_counts(profile(program, workload), kernels) for workload in WORKLOADS}
    for workload, counts in counted.items():
        if missing := {"epoch", "gather", "forward", "loss", "backward", "weight_gradient", "update"} - counts.keys():
            sys.exit(f"{workload}: the profile does not name {missing}; are they still in kernels.hpp?")
    record = json.loads(RECORD.read_text())
    if options.record:
        RECORD.write_text(json.dumps(record | {compiler: counted}, indent=2, sort_keys=True) + "\n")
        return f"recorded for {compiler}"
    again = f"python {Path(__file__).relative_to(ROOT)} --record"
    if compiler not in record:
        sys.exit(f"no counts are on record for {compiler}, only for {', '.join(record)}; to add them: {again}")
    if found := list(regressions(record[compiler], counted)):
        sys.exit("\n".join([*found, f"if this is meant: {again}"]))
    return "\n".join(f"{workload}: {counts}" for workload, counts in counted.items())


if __name__ == "__main__":
    print(main())
