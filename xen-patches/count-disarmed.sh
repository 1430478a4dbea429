#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Count, in the built binary, the instructions that a switch to a guest executes
# more than without our patches while nothing is armed.
#
#   xen-patches/count-disarmed.sh [xen-syms]     default: target/xen/4.20/xen-syms
#
# Prints {"pv":n,"svm":n,"vmx":n,"max":n}.
#
# In each tail these are the instructions from the one which reads xfi_nr_armed
# up to the conditional branch on it; that the branch, if taken, leads to
# xfi_tail() is checked, as is that nothing else in Xen reads xfi_nr_armed.
# Instructions the compiler moved in between are counted too.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
syms=${1-$here/../target/xen/4.20/xen-syms}
[[ -r $syms ]] || {
    echo "count-disarmed: error: no $syms; xen-patches/build.sh makes it" >&2
    exit 1
}

exec python3 - "$syms" <<'PYTHON'
import re, subprocess, sys

TAILS = {"pv": "continue_pv_domain", "svm": "svm_do_resume", "vmx": "vmx_do_resume"}
COUNTER, SLOW = "xfi_nr_armed", "xfi_tail"

def fail(text):
    sys.exit(f"count-disarmed: error: {text}")

out = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-j", ".text", sys.argv[1]],
                     check=True, text=True, stdout=subprocess.PIPE).stdout

insns = []       # (address, text, function)
where = {}       # address -> index
function = None
for line in out.splitlines():
    if m := re.match(r"[0-9a-f]+ <(.+)>:$", line):
        function = m[1]
    elif m := re.match(r"\s*([0-9a-f]+):\t(.+)", line):
        where[int(m[1], 16)] = len(insns)
        insns.append((int(m[1], 16), m[2].strip(), function))

def leads_to_slow(address):
    # A call, straight away, or past an unconditional jump.
    i = where.get(address)
    for _ in range(4):
        if i is None:
            return False
        text = insns[i][1]
        if re.match(rf"call\s.*<{SLOW}>", text):
            return True
        if m := re.match(r"jmp\s+([0-9a-f]+)", text):
            i = where.get(int(m[1], 16))
        elif re.match(r"(j|ret|ud2)", text):
            return False
        else:
            i += 1
    return False

readers = [i for i, (_, text, _) in enumerate(insns) if f"<{COUNTER}>" in text]
counts = {}
for key, name in TAILS.items():
    here = [i for i in readers if insns[i][2] == name]
    if len(here) != 1:
        fail(f"{name} reads {COUNTER} at {len(here)} places, not at one")
    for n, (_, text, owner) in enumerate(insns[here[0]:here[0] + 16], 1):
        if owner != name:
            fail(f"{name} reads {COUNTER}, but doesn't branch on it")
        if m := re.match(r"jn?e\s+([0-9a-f]+)", text):
            if text.startswith("je"):
                fail(f"{name}: the disarmed path is the one with the branch taken")
            if not leads_to_slow(int(m[1], 16)):
                fail(f"{name}: the branch on {COUNTER} doesn't lead to {SLOW}")
            counts[key] = n
            break
        if re.match(r"(j|call|ret)", text):
            fail(f"{name}: '{text}' between reading {COUNTER} and branching on it")
    else:
        fail(f"{name} reads {COUNTER}, but doesn't branch on it")

# Those in xfi.c only run when something is, or is to be, armed.
expected = set(TAILS.values()) | {"do_xfi_op", SLOW, "finish", "arm", "capabilities", "disarm"}
for i in readers:
    owner = insns[i][2]
    if re.sub(r"(\.(part|constprop|isra|cold)(\.\d+)?)+$", "", owner.split("#")[-1]) not in expected:
        fail(f"{owner} reads {COUNTER} as well")

counts["max"] = max(counts.values())
print("{" + ",".join(f'"{k}":{v}' for k, v in counts.items()) + "}")
PYTHON
