#!/usr/bin/env python3
"""Makes the recorded data of the tests: `records/*.json`, one RunRecord each,
and `campaign/`, a whole run directory.

The records are written by hand below, as differences from a run in which
nothing happened; the campaign is drawn from a seed with shares like those of
thesis table 4. Not measurements.

    make_data.py                  rewrites records/ and campaign/
    make_data.py N DIR [SEED]     a campaign of N injections in DIR
"""
import copy
import hashlib
import json
import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MS = 1_000_000
SHA = "1adc95bebe9eea8c112d40cd04ab7a8d75c4f961"
REGS = ("rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags "
        "cs ss ds es fs gs").split()
WIDTH = {r: 16 for r in ("cs", "ss", "ds", "es", "fs", "gs")}
RFLAGS = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 21]
T0 = 5_000_000 * MS          # CLOCK_MONOTONIC when the load starts
WINDOW = 2_000 * MS
HOT = (0xFFFFFFFF81C8B4AB, "pv_native_safe_halt+0xb", "kernel")


def hexa(v):
    return f"0x{v:016x}"


def html(sha=SHA):
    return f"<!DOCTYPE html>\n<html><head><title>sha1</title></head><body><p>{sha}</p></body></html>\n"


def registers(rng, rip):
    regs = {r: hexa(rng.getrandbits(WIDTH.get(r, 48))) for r in REGS}
    regs.update(rip=hexa(rip), cs=hexa(0xE033), ss=hexa(0xE02B), ds=hexa(0), es=hexa(0),
                fs=hexa(0), gs=hexa(0), rflags=hexa(0x246))
    return regs


def fault(reg="rbx", bit=21, moment=400 * MS, domain="web1", mask=None):
    return {"location": {"kind": "vcpu_register", "domain": domain, "vcpu": 0, "register": reg},
            "mask": hexa(1 << bit if mask is None else mask), "op": "flip",
            "trigger": {"kind": "kick", "after_ns": moment, "nth": 1, "expire_ns": moment + 1000 * MS}}


def injection(reg, bit, rng=None, rip=HOT, dummy=False, ident=1, moment=400 * MS):
    rng = rng or random.Random(7)
    before = registers(rng, rip[0])
    after = dict(before)
    if not dummy:
        after[reg] = hexa(int(before[reg], 16) ^ (1 << bit))
    armed = 31_000 * MS
    return {"id": ident, "state": "fired", "dummy": dummy, "domain": "web1", "domid": 1, "vcpu": 0,
            "register": reg, "mask": hexa(0 if dummy else 1 << bit), "armed_now_ns": armed,
            "drawn_now_ns": armed + moment, "runstate_at_drawn": "running", "events_seen": 1,
            "events_matched": 1, "events_skipped_io": 0, "kicks": 1,
            "flip": {"now_ns": armed + moment + 41_000, "tsc": hexa(0x1F3A5B7C9D),
                     "pcpu": 0, "guest_kind": "pv", "guest_mode": rip[2], "rip_symbol": rip[1],
                     "before": before, "after": after}}


def service(guest, target):
    return {"guest": guest, "is_target": target, "before_flip": {"correct": 34},
            "after_flip": {"correct": 178},
            "latency": {"count": 178, "p50_ns": 11 * MS, "p90_ns": 13 * MS, "p99_ns": 17 * MS,
                        "p999_ns": 19 * MS, "max_ns": 19 * MS},
            "throughput_rps": 89.0, "not_right": [], "probes_sent": 0, "probes_answered": 0,
            "tcp": {"packets": 1780, "rst_from_guest": 0, "rst_to_guest": 0, "fin_from_guest": 178,
                    "retransmitted_from_guest": 0, "retransmitted_to_guest": 0},
            "golden_band": {"p50_max_ns": 20 * MS, "max_max_ns": 120 * MS, "throughput_min_rps": 50.0},
            "log_cut_off": False}


def domains():
    return [{"domid": 0, "name": "Domain-0", "state": "running", "kind": "pv", "vcpus": 1,
             "memory_kib": 524288},
            {"domid": 1, "name": "web1", "state": "running", "kind": "pv", "vcpus": 1,
             "memory_kib": 131072},
            {"domid": 2, "name": "web2", "state": "running", "kind": "pv", "vcpus": 1,
             "memory_kib": 131072}]


def base(kind="injection", reg="rbx", bit=21, run=0, **inj):
    moment = inj.pop("moment", 400 * MS)
    planned = {"id": run, "kind": kind, "fault": None, "snapshot": 0, "moment_ns": moment,
               "weight": 1.0, "load_seed": 1000 + run}
    record = None
    if kind != "golden":
        planned["fault"] = fault(reg, bit, moment, mask=0 if kind == "dummy" else None)
        record = injection(reg, bit, dummy=kind == "dummy", moment=moment, **inj)
    return {"planned": planned, "worker": 0, "attempt": 1, "started_at": "2026-03-01T12:00:00Z",
            "took_ns": 3_100 * MS, "restore_ns": 61 * MS, "injection": record,
            "observations": {"services": [service("web1", True), service("web2", False)],
                             "host": {"integrity": {"checks": [
                                 {"name": "read-file", "passed": True}, {"name": "uname", "passed": True},
                                 {"name": "ls", "passed": True}], "took_ns": 45 * MS},
                                 "ping_answered": True, "panic_line": None, "panic_context": [],
                                 "panic_ns": None, "guest_reset": False, "domains": domains(),
                                 "xen_log": []},
                             "load_start_ns": T0, "flip_ns": T0 + moment, "window_ns": WINDOW},
            "invalid": [], "may_have_fired": False}


def wrong(guest, verdict, after=30 * MS, flip=T0 + 400 * MS, **more):
    r = {"guest": guest, "client": 0, "seq": 35, "intended_ns": flip + after - 12 * MS,
         "start_ns": flip + after - 12 * MS, "end_ns": flip + after, "bytes": 212, "verdict": verdict}
    r.update(more)
    return r


def mark(record, guest, verdict, n=1, **more):
    """n answers of `guest` had this verdict instead of being right."""
    for s in record["observations"]["services"]:
        if s["guest"] == guest:
            s["after_flip"]["correct"] = max(0, s["after_flip"].get("correct", 0) - n)
            s["after_flip"][verdict] = s["after_flip"].get(verdict, 0) + n
            flip = record["observations"]["flip_ns"]
            for i in range(n):
                s["not_right"].append(wrong(guest, verdict, 30 * MS + i * 12 * MS, flip, **more))
    return record


def sdc(r, guest="web1"):
    bad = "1adc95bebe9eea8c112d40cd04ab7a8d75c4f9e1"
    return mark(r, guest, "incorrect_content", status=200, answer=html(bad),
                detail=f"SHA-1 is {bad}, expected {SHA}")


def hang(r, guest="web1"):
    flip = r["observations"]["flip_ns"]
    for s in r["observations"]["services"]:
        if s["guest"] == guest:
            s.update(after_flip={"correct": 3, "client_timeout": 2}, probes_sent=3, throughput_rps=1.5,
                     latency={"count": 3, "p50_ns": 11 * MS, "p90_ns": 12 * MS, "p99_ns": 12 * MS,
                              "p999_ns": 12 * MS, "max_ns": 12 * MS})
            s["not_right"] = [wrong(guest, "client_timeout", 1040 * MS, flip, bytes=0, client=c,
                                    detail="no answer within 1.0 s") for c in (0, 1)]
    return r


def panic(r, line="Xen BUG at spinlock.c:98", after=21 * MS):
    o = r["observations"]
    o["host"].update(integrity=None, panic_line=line, panic_ns=o["flip_ns"] + after,
                     panic_context=["(XEN) ****************************************", "(XEN) Panic on CPU 0:",
                                    f"(XEN) {line}"], domains=[], ping_answered=False)
    for s in o["services"]:
        s.update(after_flip={"correct": 1, "unfinished": 2}, throughput_rps=0.5)
        s["not_right"] = [wrong(s["guest"], "unfinished", after, o["flip_ns"], bytes=0)]
    return r


def records():
    out = {}

    def add(name, record):
        out[name] = record

    add("no_effect", base())
    add("golden", base("golden"))
    add("dummy", base("dummy"))
    add("golden_false_failure", sdc(base("golden")))
    add("dummy_false_failure", hang(base("dummy")))
    add("incorrect_content", sdc(base()))
    add("missing_value", mark(base(), "web1", "missing_value", status=200, answer=html(""),
                              detail="no SHA-1 in the page"))
    r = mark(base("injection", "r13", 4), "web1", "corrupted_output", status=200, answer="<!DOCTYPE ht\ufffd",
             answer_hex="3c21444f4354595045206874ff", detail="not UTF-8 at byte 12")
    add("corrupted_output", r)
    add("error_reply", mark(base("injection", "rdi", 2), "web1", "error_reply", status=500,
                            answer="<html><body><h1>Internal Server Error</h1></body></html>",
                            detail="status 500"))
    r = mark(base("injection", "r13", 40), "web1", "connection_reset", 2, reset_cause="early_close", bytes=0,
             detail="closed before the answer was complete")
    r["observations"]["services"][0]["tcp"]["rst_from_guest"] = 2
    add("connection_reset", r)
    r = mark(base("injection", "rsp", 3), "web1", "connection_reset", reset_cause="refused", bytes=0)
    mark(r, "web1", "connection_reset", reset_cause="reset", bytes=0)
    add("connection_reset_two_causes", r)
    add("hang", hang(base("injection", "rip", 30)))
    r = hang(base("injection", "rip", 30))
    r["observations"]["services"][0]["probes_answered"] = 1
    add("client_timeout", r)
    r = mark(base("injection", "rip", 31), "web1", "client_timeout", bytes=0)
    add("client_timeout_no_probes", r)
    r = hang(base("injection", "rip", 31))
    r["observations"]["services"][0].update(probes_sent=0, after_flip={"client_timeout": 2}, latency=None,
                                            throughput_rps=0.0)
    add("hang_no_probes_nothing_answered", r)
    r = base("injection", "r8", 9)
    r["observations"]["services"][0]["latency"].update(p50_ns=31 * MS, max_ns=400 * MS)
    r["observations"]["services"][0]["throughput_rps"] = 31.0
    add("degraded", r)
    r = base("injection", "r8", 9)
    r["observations"]["services"][0]["latency"].update(max_ns=400 * MS)
    r["observations"]["services"][0]["golden_band"] = None
    add("slow_without_golden_band", r)
    r = mark(sdc(base()), "web1", "connection_reset", reset_cause="reset", bytes=0)
    r["observations"]["services"][0]["latency"].update(p50_ns=31 * MS)
    add("several_labels", r)
    add("bystander_only", hang(base(), "web2"))
    add("target_and_bystander", hang(sdc(base()), "web2"))
    add("host_panic", panic(base("injection", "gs", 3)))
    r = panic(sdc(base("injection", "gs", 3)))
    r["observations"]["services"][0]["after_flip"]["incorrect_content"] = 1
    r["observations"]["services"][0]["not_right"].append(
        wrong("web1", "incorrect_content", 12 * MS, status=200, answer=html("0" * 40)))
    add("host_panic_after_wrong_answer", r)
    r = panic(base("injection", "gs", 3), after=WINDOW + 50 * MS)
    for s in r["observations"]["services"]:
        s.update(after_flip={"correct": 178}, throughput_rps=89.0, not_right=[])
    add("host_panic_after_window", r)
    r = panic(base("injection", "gs", 3))
    r["injection"], r["may_have_fired"] = None, True
    add("host_died_unheard", r)
    r = base()
    r["observations"]["host"].update(guest_reset=True, integrity=None)
    for s in r["observations"]["services"]:
        s.update(after_flip={"unfinished": 2}, throughput_rps=0.0, latency=None)
    add("host_reset", r)
    r = base()
    r["observations"]["host"]["integrity"] = None
    add("host_unresponsive", r)
    r = base()
    r["observations"]["host"]["integrity"]["checks"][1].update(passed=False, detail="Linuy")
    add("host_integrity_wrong", r)
    r = hang(base("injection", "rsp", 60))
    r["observations"]["host"]["domains"][1]["state"] = "crashed"
    add("target_domain_crashed", r)
    r = base("injection", "rsp", 60)
    r["observations"]["host"]["domains"].append(
        {"domid": 3, "name": "db1", "state": "crashed", "kind": "pvh", "vcpus": 1, "memory_kib": 65536})
    add("domain_without_service_crashed", r)

    def unfired(state, seen, matched):
        r = base()
        r["injection"].update(state=state, events_seen=seen, events_matched=matched)
        del r["injection"]["flip"]
        return r

    add("not_fired_none_matched", unfired("expired", 213, 0))
    add("not_fired_nth_not_reached", unfired("expired", 213, 2))
    add("not_fired_no_event", unfired("expired", 0, 0))
    add("not_fired_target_gone", unfired("target_gone", 1, 0))
    add("not_fired_disarmed", unfired("disarmed", 4, 0))
    add("not_fired_refused", unfired("refused", 1, 1))
    r = unfired("expired", 9, 0)
    r["may_have_fired"] = True
    add("not_fired_though_harness_doubts", r)

    r = base()
    r["invalid"] = ["web2 had no right answer before the flip"]
    add("invalid_validator", r)
    r = base()
    r["observations"]["services"][1]["before_flip"]["client_timeout"] = 1
    add("invalid_wrong_before_flip", r)
    r = base("golden")
    r["observations"]["services"][0]["before_flip"]["error_reply"] = 2
    add("invalid_golden_wrong_before_moment", r)
    r = base()
    r["injection"]["flip"]["after"]["rcx"] = hexa(5)
    add("invalid_two_registers_changed", r)
    r = base()
    r["injection"]["flip"]["after"]["rbx"] = r["injection"]["flip"]["before"]["rbx"]
    add("invalid_nothing_changed", r)
    r = base("dummy")
    r["injection"]["flip"]["after"]["rbx"] = hexa(int(r["injection"]["flip"]["before"]["rbx"], 16) ^ 1)
    add("invalid_dummy_flipped", r)
    r = base()
    r["injection"]["register"] = "rcx"
    add("invalid_other_register", r)

    r = base()
    r.update(injection=None, harness_error="QEMU ended with status 1 before the fault was armed")
    add("harness_error_before_arming", r)
    r = base("golden")
    r.update(harness_error="the agent's link closed")
    add("harness_error_golden", r)
    r = base()
    r.update(harness_error="QEMU was killed by signal 9")
    add("unjudged_fired_then_harness_error", r)
    r = base()
    r.update(injection=None, may_have_fired=True, harness_error="the agent's link closed")
    add("unjudged_may_have_fired", r)
    r = base()
    r.update(injection=None, may_have_fired=True)
    add("unjudged_no_record_responsive_host", r)
    r = base()
    r["observations"]["services"][1]["log_cut_off"] = True
    add("unjudged_log_cut_off", r)
    r = base()
    r["observations"]["services"] = []
    add("unjudged_no_service", r)
    r = base()
    for s in r["observations"]["services"]:
        s.update(after_flip={}, latency=None, throughput_rps=0.0)
    add("unjudged_no_request", r)
    r = base("golden")
    r["observations"]["services"][0]["log_cut_off"] = True
    add("harness_error_golden_log_cut_off", r)
    r = base()
    r.update(injection=None)
    add("harness_error_nothing_armed", r)
    return out


HOTSPOTS = [(HOT, 0.22), ((0xFFFFFFFF81E013AA, "xen_hypercall_sched_op+0xa", "kernel"), 0.06),
            ((0x00007F3A51C2D4E0, "sha1_process_block+0x2e0", "user"), 0.05),
            ((0x00007F3A51C2D57B, "sha1_process_block+0x37b", "user"), 0.04)]


def rip(rng):
    x = rng.random()
    for spot, p in HOTSPOTS:
        x -= p
        if x < 0:
            return spot
    if rng.random() < 0.7:
        off = rng.randrange(0, 0x9C0, 1)
        return (0x00007F3A51C2D200 + off, f"sha1_process_block+{off:#x}", "user")
    off = rng.randrange(0, 0x300)
    return (0xFFFFFFFF81123400 + off, f"copy_user_generic_string+{off:#x}", "kernel")


EFFECT = {"rip": 0.75, "rsp": 0.7, "rbx": 0.3, "fs": 0.35, "rbp": 0.25, "r12": 0.15, "r13": 0.12,
          "rdi": 0.2, "rsi": 0.18, "rax": 0.1, "rcx": 0.08, "cs": 0.3, "ss": 0.2, "rflags": 0.1}


def campaign(n, out, seed=3, snapshots=2, hard=True):
    rng = random.Random(seed)
    controls = max(5, n // 8)
    kinds = ["injection"] * n + ["golden"] * controls + ["dummy"] * controls
    rng.shuffle(kinds)
    plan, journal = [], []
    plan_hash = hashlib.sha256(f"{n} {seed}".encode()).hexdigest()
    journal.append({"kind": "header", "format": 1, "plan_hash": plan_hash, "at": "2026-03-01T12:00:00Z"})
    special = {}
    injections = [i for i, k in enumerate(kinds) if k == "injection"]
    if hard:
        names = ["expired", "lost", "panic", "invalid", "retried", "bystander", "degraded", "fired_lost"]
        special = dict(zip(rng.sample(injections, len(names)), names))
    for i, kind in enumerate(kinds):
        reg = rng.choice(REGS)
        bit = rng.choice(RFLAGS) if reg == "rflags" else rng.randrange(WIDTH.get(reg, 64))
        moment = rng.randrange(350 * MS, 650 * MS)
        r = base(kind, reg, bit, i, **({} if kind == "golden" else {"rng": rng, "rip": rip(rng), "ident": i + 1}),
                 moment=moment)
        for s in r["observations"]["services"]:
            jitter = rng.gauss(0, 1)
            s["throughput_rps"] = round(89 + 3 * jitter, 2)
            s["latency"]["p50_ns"] = int(11 * MS + jitter * 0.4 * MS)
        r["planned"]["snapshot"] = i % snapshots
        r["worker"] = i % 2
        r["started_at"] = f"2026-03-01T12:{i // 20 % 60:02d}:{i % 20 * 3:02d}Z"
        r["took_ns"] = int(rng.uniform(2.6, 3.9) * 1e9)
        r["restore_ns"] = int(rng.uniform(56, 70) * MS)
        what = special.get(i)
        if kind == "injection" and what is None and rng.random() < EFFECT.get(reg, 0.03):
            x = rng.random()
            if reg == "rbx" and x < 0.6 or x < 0.1:
                sdc(r)
            elif x < 0.45:
                hang(r)
                if x > 0.2:
                    r["observations"]["services"][0]["probes_answered"] = 2
            elif x < 0.6:
                mark(r, "web1", "connection_reset", 2, reset_cause="early_close", bytes=0,
                     detail="closed before the answer was complete")
            elif x < 0.7:
                mark(r, "web1", "error_reply", status=500, detail="status 500",
                     answer="<html><body><h1>Internal Server Error</h1></body></html>")
            elif x < 0.75:
                mark(r, "web1", "corrupted_output", status=200, answer="<!DOCTYPE ht", detail="HTML ends early")
            else:
                hang(r)
        if what == "expired":
            r["injection"].update(state="expired", events_seen=0, events_matched=0)
            del r["injection"]["flip"]
        elif what == "panic":
            panic(r)
        elif what == "invalid":
            r["observations"]["services"][1]["before_flip"]["client_timeout"] = 1
        elif what == "bystander":
            hang(hang(r), "web2")
        elif what == "degraded":
            r["observations"]["services"][0]["latency"]["p50_ns"] = 33 * MS
        plan.append(r["planned"])
        at = r["started_at"]
        if what == "retried":
            journal.append({"kind": "intent", "run": i, "attempt": 1, "at": at})
            journal.append({"kind": "unfired", "run": i, "attempt": 1, "at": at,
                            "reason": "QEMU did not start: port taken"})
            r["attempt"] = 2
        journal.append({"kind": "intent", "run": i, "attempt": r["attempt"], "at": at})
        if what == "lost":
            continue
        if r["injection"] and r["injection"]["state"] == "fired":
            journal.append({"kind": "fired", "run": i, "attempt": r["attempt"], "injection": r["injection"]})
        if what == "fired_lost":
            continue
        # What the classifier said then; a report classifies anew.
        journal.append({"kind": "result", "run": i, "record": r,
                        "outcome": {"status": "fired", "services": [], "host": None, "blast_radius": None}})
    timing = {"lead_ns": 350 * MS, "moments_ns": 300 * MS, "window_ns": WINDOW, "timeout_ns": 1000 * MS,
              "expire_after_moment_ns": 1000 * MS, "golden_period_ns": 22 * MS, "golden_p999_ns": 19 * MS}
    bits = sum(15 if r == "rflags" else WIDTH.get(r, 64) for r in REGS)
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/plan.json", "w") as f:
        json.dump({"format": 1, "campaign": "http-quick", "seed": seed, "timing": timing,
                   "fault_space_bits": bits,
                   "bands": {g: service(g, False)["golden_band"] for g in ("web1", "web2")}, "runs": plan}, f, indent=None, separators=(",", ":"))
        f.write("\n")
    with open(f"{out}/journal.jsonl", "w") as f:
        for line in journal:
            f.write(json.dumps(line, separators=(",", ":")) + "\n")
    with open(f"{out}/manifest.json", "w") as f:
        json.dump({"format": 1, "campaign": "http-quick", "created_at": "2026-03-01T12:00:00Z", "seed": seed,
                   "plan_hash": plan_hash, "xfi_version": "0.1.0", "git_commit": "0" * 40, "git_dirty": False,
                   "xen_version": "4.20.0", "xen_build_id": "5c1d7a3e", "image_digest": "ab" * 32,
                   "qemu_version": "10.0.2", "layout": "pv2", "snapshots": snapshots, "workers": 2,
                   "host": {"hostname": "example", "cpu": "example CPU", "cores": 2, "memory_mib": 8192,
                            "kernel": "6.1.0"}, "window_ns": WINDOW}, f, indent=2)
        f.write("\n")


def main():
    if len(sys.argv) > 2:
        n = int(sys.argv[1])
        seed = int(sys.argv[3]) if len(sys.argv) > 3 else 3
        campaign(n, sys.argv[2], seed, snapshots=2 if n < 200 else 10)
        return
    os.makedirs(f"{HERE}/records", exist_ok=True)
    for name, record in records().items():
        with open(f"{HERE}/records/{name}.json", "w") as f:
            json.dump(copy.deepcopy(record), f, indent=1)
            f.write("\n")
    campaign(60, f"{HERE}/campaign")


main()
