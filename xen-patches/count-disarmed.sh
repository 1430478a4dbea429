#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Count, in the built binary, the instructions that a switch to a guest, and a
# hypercall, execute more than without our patches while nothing is armed.
#
#   xen-patches/count-disarmed.sh [version or xen-syms]     default: 4.20
#
# A version stands for target/xen/<version>/xen-syms.
#
# Prints {"pv":n,"svm":n,"vmx":n,"max":n,"hypercall":n}: for a switch to a guest of
# that kind, the most of these, and for a hypercall.
#
# A switch is the way through context_switch(), which reads xfi_hypercalls, and
# through the tail, which reads xfi_nr_armed; a hypercall reads xfi_hypercalls
# before and after its handler. At each of these places the instructions from the
# one which reads up to the conditional branch on it count, with those that the
# compiler moved in between. It is checked that the branch, if taken, leads to
# our slow path, and that nothing else in Xen reads either.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
syms=${1-4.20}
[[ $syms =~ ^[0-9]+\.[0-9]+$ ]] && syms=$here/../target/xen/$syms/xen-syms
[[ -r $syms ]] || {
    echo "count-disarmed: error: no $syms; xen-patches/build.sh <version> makes it" >&2
    exit 1
}

exec python3 - "$syms" <<'PYTHON'
import re, subprocess, sys

# Where what is read, and the slow paths it leads to; one for each time.
TAILS = {"pv": "continue_pv_domain", "svm": "svm_do_resume", "vmx": "vmx_do_resume"}
SWITCH = "context_switch"
# A Xen without 32-bit PV guests lacks do_entry_int82.
DISPATCH = ["pv_hypercall", "do_entry_int82", "pv_do_multicall_call",
            "hvm_hypercall", "hvm_do_multicall_call"]
ARMED, HYPERCALLS = "xfi_nr_armed", "xfi_hypercalls"
ENTER, LEAVE = "xfi_hypercall_enter", "xfi_hypercall_leave"

def fail(text):
    sys.exit(f"count-disarmed: error: {text}")

out = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-j", ".text", sys.argv[1]],
                     check=True, text=True, stdout=subprocess.PIPE).stdout

insns = []       # (address, text, function)
where = {}       # address -> index
functions = set()
function = None
for line in out.splitlines():
    if m := re.match(r"[0-9a-f]+ <(.+)>:$", line):
        function = m[1]
        functions.add(function)
    elif m := re.match(r"\s*([0-9a-f]+):\t(.+)", line):
        where[int(m[1], 16)] = len(insns)
        insns.append((int(m[1], 16), m[2].strip(), function))

def leads_to(address):
    # What is called, straight away, or past an unconditional jump, of ours.
    i = where.get(address)
    for _ in range(6):
        if i is None:
            return None
        text = insns[i][1]
        if m := re.match(r"call\s.*<(xfi_\w+)>", text):
            return m[1]
        if m := re.match(r"jmp\s+([0-9a-f]+)", text):
            i = where.get(int(m[1], 16))
        elif re.match(r"(j|ret|ud2|call)", text):
            return None
        else:
            i += 1
    return None

def base(function):
    return re.sub(r"(\.(part|constprop|isra|cold)(\.\d+)?)+$", "", function.split("#")[-1])

def readers(counter):
    return [i for i, (_, text, _) in enumerate(insns) if f"<{counter}>" in text]

def cost(i, counter):
    """Instructions from this one to the branch, and where that leads."""
    name = insns[i][2]
    for n, (_, text, owner) in enumerate(insns[i:i + 16], 1):
        if owner != name:
            break
        if m := re.match(r"jn?e\s+([0-9a-f]+)", text):
            if text.startswith("je"):
                fail(f"{name}: the disarmed path is the one with the branch taken")
            return n, leads_to(int(m[1], 16))
        if re.match(r"(j|call|ret)", text):
            fail(f"{name}: '{text}' between reading {counter} and branching on it")
    fail(f"{name} reads {counter}, but doesn't branch on it")

def only(name, counter, slow):
    here = [i for i in readers(counter) if insns[i][2] == name]
    if len(here) != 1:
        fail(f"{name} reads {counter} at {len(here)} places, not at one")
    n, target = cost(here[0], counter)
    if target != slow:
        fail(f"{name}: the branch on {counter} doesn't lead to {slow}, but to {target}")
    return n

switch = only(SWITCH, HYPERCALLS, "xfi_hypercall_abandon")
counts = {key: only(name, ARMED, "xfi_tail") + switch for key, name in TAILS.items()}
counts["max"] = max(counts.values())

counts["hypercall"] = 0
for name in DISPATCH:
    costs = {ENTER: [], LEAVE: []}
    for i in readers(HYPERCALLS):
        if base(insns[i][2]) == name:
            n, target = cost(i, HYPERCALLS)
            if target not in costs:
                fail(f"{name}: the branch on {HYPERCALLS} doesn't lead to us, but to {target}")
            costs[target].append(n)
    if (not costs[ENTER] or not costs[LEAVE]) and name in functions:
        fail(f"{name} doesn't read {HYPERCALLS} before and after the handler: {costs}")
    counts["hypercall"] = max(counts["hypercall"], sum(max(c, default=0) for c in costs.values()))

# Those in our own files only run when something is, or is to be, armed.
ours = {"do_xfi_op", "xfi_tail", "finish", "call_off", "arm", "capabilities", "disarm",
        "start", "begin", "set_dr3", "clear_dr3", "watch", "advance", "timer_fn"}
for counter, others in (ARMED, set(TAILS.values())), (HYPERCALLS, {SWITCH, *DISPATCH}):
    for i in readers(counter):
        owner = base(insns[i][2])
        if owner not in others | ours and not owner.startswith("xfi_"):
            fail(f"{owner} reads {counter} as well")

print("{" + ",".join(f'"{k}":{v}' for k, v in counts.items()) + "}")
PYTHON
