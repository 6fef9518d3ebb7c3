#!/usr/bin/env python3
"""Would the parity cases notice a fault in a kernel? Makes small faults, one at a time, in a copy of the kernels, has
the release binary compare the operation with its reference (`unmist verify --kernel`, with `UNMIST_WGSL` naming the
copy), and counts which were noticed.

    cargo build --release
    python3 tools/mutate_kernels.py --results target/mutants.jsonl     # every fault: hours
    python3 tools/mutate_kernels.py --sample 500                       # 500 of them, chosen by --seed
    python3 tools/mutate_kernels.py --sample 20 --kernels scale,softmax --require 97

One JSON line for each fault goes to --results; faults that are already there, for a kernel that has not changed since,
are not tried again. Survivors that cannot be noticed are listed in tests/README.md with the reason; they do not count.
The exit code is 1 if the score is below --require.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows: there only the clock stops a fault that never ends
    resource = None

ROOT = Path(__file__).resolve().parent.parent
WGSL = ROOT / "wgsl"

# (kind, pattern, replacements). Patterns see code only, never comments. Operators have spaces around them, as in all
# kernels here.
RULES = [
    ("comparison", r" < ", [" <= "]),
    ("comparison", r" <= ", [" < "]),
    ("comparison", r" > ", [" >= "]),
    ("comparison", r" >= ", [" > "]),
    ("comparison", r" == ", [" != "]),
    ("logic", r" \|\| ", [" && "]),
    ("logic", r" && ", [" || "]),
    ("sign", r" \+ ", [" - "]),
    ("sign", r" - ", [" + "]),
    ("sign", r" \+= ", [" -= ", " = "]),
    ("sign", r" -= ", [" += "]),
    ("factor", r" \* ", [" + "]),
    ("factor", r" / ", [" * "]),
    ("factor", r" % ", [" / "]),
    ("factor", r" \*= ", [" = "]),
    ("component", r"(?<=[\w\])])\.x\b", [".y"]),
    ("component", r"(?<=[\w\])])\.y\b", [".x"]),
    ("component", r"(?<=[\w\])])\.z\b", [".w"]),
    ("component", r"(?<=[\w\])])\.w\b", [".z"]),
    ("extreme", r"\bmin\(", ["max("]),
    ("extreme", r"\bmax\(", ["min("]),
    ("barrier", r"\bworkgroupBarrier\(\);", ["// dropped: workgroupBarrier();"]),
]
CEILINGS = ("ceilings/", "include/fma_chains", "include/matrix_chains")
INTEGER = re.compile(r"(?<![\w.])(\d+)u\b")
FLOAT = re.compile(r"(?<![\w.])(\d+\.\d+)(?:e(-?\d+))?\b")
# A statement that is one line and declares nothing.
STATEMENT = re.compile(r"^\s*(?!let |var |return|const |fn |struct )[\w\[\].]+(?:\[[^=]*\])? [+\-*/]?= .*;$")
CONDITION = re.compile(r"\bif \((.*)\) \{ (?:return|continue|break)")


def replaced_constants():
    """Names of the `const` lines that launches replace: their defaults are never compiled."""
    text = "".join(path.read_text() for path in (ROOT / "src/ops").rglob("*.rs"))
    return set(re.findall(r'"([A-Z][A-Z0-9_]*)"', text))


def code(line):
    """The line without its comment."""
    return line if line.startswith("//") else line.split("//")[0].rstrip()


def mutants_of_line(line):
    """(kind, line with a fault) for each possible fault."""
    body = code(line)
    rest = line[len(body):]
    for kind, pattern, replacements in RULES:
        for found in re.finditer(pattern, body):
            for replacement in replacements:
                yield kind, body[:found.start()] + replacement + body[found.end():] + rest
    for found in INTEGER.finditer(body):
        value = int(found.group(1))
        for other in {value + 1, max(value - 1, 0)} - {value}:
            yield "index", body[:found.start(1)] + str(other) + body[found.end(1):] + rest
    for found in FLOAT.finditer(body):
        value = float(found.group(0))
        other = "1.0" if value == 0.0 else repr(value * 0.99)
        yield "constant", body[:found.start()] + other + body[found.end():] + rest
    if STATEMENT.match(body):
        yield "dropped", re.match(r"\s*", body).group(0) + "// dropped: " + body.strip()
    for found in CONDITION.finditer(body):
        yield "bound", body[:found.start(1)] + "false" + body[found.end(1):] + rest


def mutants_of(path, constants):
    """Every fault of a file: kind, line number, line before, line after."""
    found = []
    in_params = False
    for number, line in enumerate(path.read_text().splitlines()):
        in_params = (in_params or line.startswith("struct ")) and not line.startswith("}")
        declared = re.match(r"const (\w+):", line)
        replaced = declared and declared.group(1) in constants
        skipped = line.startswith(("//", "@group", "@compute", "alias"))
        if in_params or skipped or replaced or not code(line).strip():
            continue
        seen = {line}
        for kind, after in mutants_of_line(line):
            if after not in seen:
                seen.add(after)
                found.append((kind, number, line, after))
    return found


def kernels_including(name):
    """Kernels that include wgsl/include/NAME.wgsl, directly or not."""
    users, wanted = [], {name}
    includes = {p.stem: p.read_text() for p in (WGSL / "include").glob("*.wgsl")}
    for _ in includes:
        wanted |= {n for n, text in includes.items() if any(f"//!include {w}\n" in text for w in wanted)}
    for path in sorted(WGSL.rglob("*.wgsl")):
        kernel = path.relative_to(WGSL).with_suffix("").as_posix()
        if not kernel.startswith("include/") and any(f"//!include {w}\n" in path.read_text() for w in wanted):
            users.append(kernel)
    return users


class Runner:
    def __init__(self, args):
        self.args = args
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        shutil.copytree(WGSL, self.folder / "wgsl")
        registry = subprocess.run([args.binary, "verify", "--operation", "?"], capture_output=True, text=True).stderr
        self.operations = re.search(r"there are (.*)", registry).group(1).split(", ")

    def close(self):
        shutil.rmtree(self.folder)

    def command(self, kernel):
        command = [self.args.binary, "verify", "--stop-at-first"]
        if kernel.startswith("include/"):
            # One kernel of each operation that includes it, a naive one if there is one.
            first = {}
            for user in kernels_including(kernel.removeprefix("include/")):
                if user.split("/")[0] not in first or "naive" in user:
                    first[user.split("/")[0]] = user
            names = [o for o in first if o in self.operations]
            return command + ["--operation", ",".join(names[:self.args.include_operations])]
        operation = kernel.split("/")[0]
        return command + ["--kernel", kernel] + (["--operation", operation] if operation in self.operations else [])

    def verify(self, kernel, cpu_seconds=None):
        """(outcome, first line that says why)"""
        environment = os.environ | {"UNMIST_WGSL": str(self.folder / "wgsl")}
        options = dict(env=environment, capture_output=True, text=True, errors="replace", timeout=self.args.timeout)
        if cpu_seconds and resource:
            options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        try:
            done = subprocess.run(self.command(kernel), **options)
        except subprocess.TimeoutExpired:
            return "noticed", f"no end within {self.args.timeout} s"
        said = [line for line in done.stdout.splitlines() if line.startswith("DIVERGES")]
        why = said[0] if said else done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        if any(text in done.stdout for text in ("does not parse", "is not valid")):
            return "invalid", why
        if done.returncode < 0:
            return "noticed", f"signal {-done.returncode}" + (": too slow" if done.returncode == -24 else "")
        if done.returncode == 0:
            return "survived", ""
        return "noticed", why[:200]

    def try_fault(self, kernel, number, after, cpu_seconds):
        path = self.folder / "wgsl" / f"{kernel}.wgsl"
        original = (WGSL / f"{kernel}.wgsl").read_text()
        lines = original.splitlines(keepends=True)
        lines[number] = after + "\n"
        path.write_text("".join(lines))
        try:
            return self.verify(kernel, cpu_seconds)
        finally:
            path.write_text(original)


def children_seconds():
    """Processor time of the processes that this one has run so far, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN) if resource else None
    return used.ru_utime + used.ru_stime if used else 0


def argued():
    """The survivors that tests/README.md gives reasons for: kernels (`*` is any part of a path) and patterns of faulty
    lines (there, `…` is anything)."""
    text = (ROOT / "tests/README.md").read_text() if (ROOT / "tests/README.md").exists() else ""
    listed = re.findall(r"^- ([\w/*]+): `(.+?)`: .+$", text, re.M)
    return [(kernel, ".*".join(map(re.escape, line.split("…")))) for kernel, line in listed]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/unmist"), help="the release binary")
    parser.add_argument("--sample", type=int, help="how many faults to try [default: all]")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--kernels", default="", help="only kernels whose paths begin with these, comma-separated")
    parser.add_argument("--kinds", default="", help="only these kinds of faults, comma-separated")
    parser.add_argument("--results", type=Path, help="file of JSON lines to continue")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one fault; longer counts as noticed, "
                        "as does three times the processor time of the faultless kernel")
    parser.add_argument("--include-operations", type=int, default=6, help="at most, for a fault in an include")
    parser.add_argument("--require", type=float, default=0, help="the least score to accept, in percent")
    parser.add_argument("--list", action="store_true", help="print the faults and try none")
    args = parser.parse_args()

    constants = replaced_constants()
    prefixes, kinds = tuple(args.kernels.split(",")), set(filter(None, args.kinds.split(",")))
    faults = []
    for path in sorted(WGSL.rglob("*.wgsl")):
        kernel = path.relative_to(WGSL).with_suffix("").as_posix()
        # No operation launches what measures ceilings, so no case could notice a fault; it checks itself.
        if not kernel.startswith(prefixes) or kernel.startswith(CEILINGS):
            continue
        lines = [code(line) for line in path.read_text().splitlines() if not re.match(r"//(?!!)", line)]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]  # of the code alone
        faults += [(kernel, digest, *fault) for fault in mutants_of(path, constants) if not kinds or fault[0] in kinds]
    total = len(faults)
    random.Random(args.seed).shuffle(faults)
    faults = faults[:args.sample]
    if args.list:
        for kernel, _, kind, number, before, after in faults:
            print(f"{kernel}:{number + 1} {kind}\n    {before.strip()}\n    {after.strip()}")
        return 0

    known = {}
    if args.results and args.results.exists():
        for line in args.results.read_text().splitlines():
            entry = json.loads(line)
            known[entry["kernel"], entry["sha256"], entry["place"], entry["after"]] = entry
    output = args.results.open("a") if args.results else None
    runner, entries = Runner(args), []
    try:
        limits = {}
        for position, (kernel, digest, kind, number, before, after) in enumerate(faults):
            # The same line may occur twice in a file; comments above it do not count.
            place = (WGSL / f"{kernel}.wgsl").read_text().splitlines()[:number].count(before)
            entry = known.get((kernel, digest, place, after))
            if entry is None:
                if kernel not in limits:
                    before_it = children_seconds()
                    outcome, why = runner.verify(kernel)
                    if outcome != "survived":
                        sys.exit(f"{kernel} does not pass without a fault: {why}")
                    took = children_seconds() - before_it
                    # Even a loop that a fault makes endless may end: some drivers cut it short and go on.
                    limits[kernel] = int(3 * took) + 5
                begin = time.monotonic()
                outcome, why = runner.try_fault(kernel, number, after, limits[kernel])
                entry = {"kernel": kernel, "sha256": digest, "line": number + 1, "place": place, "kind": kind,
                         "before": before, "after": after, "outcome": outcome, "why": why,
                         "seconds": round(time.monotonic() - begin, 2)}
                if output:
                    output.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    output.flush()
                if outcome == "survived":
                    print(f"[{position + 1} of {len(faults)}] survived: {kernel}:{number + 1} {kind}: {after.strip()}",
                          flush=True)
            entries.append(entry)
    finally:
        runner.close()

    reasons = argued()
    valid = [e for e in entries if e["outcome"] != "invalid"]
    noticed = [e for e in valid if e["outcome"] == "noticed"]
    survivors = [e for e in valid if e["outcome"] == "survived"]

    def cannot_be(e):
        return any(fnmatch.fnmatchcase(e["kernel"], kernel) and re.fullmatch(line, e["after"].strip())
                   for kernel, line in reasons)

    excused = [e for e in survivors if cannot_be(e)]
    counted = len(valid) - len(excused)
    score = 100 * len(noticed) / max(counted, 1)
    print(f"{total} possible faults, {len(entries)} tried, {len(entries) - len(valid)} not valid WGSL; of {len(valid)} "
          f"{len(noticed)} were noticed, {len(excused)} cannot be (tests/README.md), "
          f"{len(survivors) - len(excused)} survived: "
          f"score {score:.1f} % ({100 * len(noticed) / max(len(valid), 1):.1f} % of all)")
    for e in survivors:
        if e not in excused:
            print(f"- {e['kernel']}: `{e['after'].strip()}`: was `{e['before'].strip()}`")
    return int(score < args.require)


if __name__ == "__main__":
    sys.exit(main())
