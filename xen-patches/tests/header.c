/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The layout of public/xfi.h is an ABI: this is compiled as C99 and as C++, for
 * 64-bit and 32-bit callers.  A line that fails here is an incompatible change,
 * which needs a new XFI_ABI_VERSION.
 */
#include <stddef.h>
#include <stdint.h>

#include <xfi.h>

/* C99 has no _Static_assert. */
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define CHECK(cond) typedef char PASTE(check_, __LINE__)[(cond) ? 1 : -1]
#define SIZE(type, size) CHECK(sizeof(struct type) == (size))
#define AT(type, field, offset) CHECK(offsetof(struct type, field) == (offset))

CHECK(XFI_ABI_VERSION == 2);
CHECK(XFI_HYPERCALL_NR == 55);
CHECK(XFI_NR_REGS == 24);
CHECK(XFI_REG_GS == XFI_NR_REGS - 1);

SIZE(xfi_regs, 192);

SIZE(xfi_capabilities, 816);
AT(xfi_capabilities, magic, 0);
AT(xfi_capabilities, abi_version, 8);
AT(xfi_capabilities, delivery, 12);
AT(xfi_capabilities, features, 16);
AT(xfi_capabilities, nr_slots, 24);
AT(xfi_capabilities, nr_regs, 28);
AT(xfi_capabilities, now_ns, 32);
AT(xfi_capabilities, tsc_khz, 40);
AT(xfi_capabilities, nr_armed, 44);
AT(xfi_capabilities, mask_pv, 48);
AT(xfi_capabilities, mask_pv32, 240);
AT(xfi_capabilities, mask_hvm, 432);
AT(xfi_capabilities, mask_xen, 624);

SIZE(xfi_arm, 96);
AT(xfi_arm, version, 0);
AT(xfi_arm, flags, 4);
AT(xfi_arm, domid, 8);
AT(xfi_arm, vcpu, 12);
AT(xfi_arm, reg, 16);
AT(xfi_arm, op, 20);
AT(xfi_arm, trigger, 24);
AT(xfi_arm, hypercall, 28);
AT(xfi_arm, mask, 32);
AT(xfi_arm, rip_start, 40);
AT(xfi_arm, rip_end, 48);
AT(xfi_arm, nth, 56);
AT(xfi_arm, not_before_ns, 64);
AT(xfi_arm, kick_period_ns, 72);
AT(xfi_arm, expire_ns, 80);
AT(xfi_arm, id, 88);

SIZE(xfi_record, 584);
AT(xfi_record, id, 0);
AT(xfi_record, domid, 8);
AT(xfi_record, vcpu, 12);
AT(xfi_record, arm_flags, 16);
AT(xfi_record, reg, 20);
AT(xfi_record, op, 24);
AT(xfi_record, trigger, 28);
AT(xfi_record, mask, 32);
AT(xfi_record, rip_start, 40);
AT(xfi_record, rip_end, 48);
AT(xfi_record, nth, 56);
AT(xfi_record, not_before_ns, 64);
AT(xfi_record, kick_period_ns, 72);
AT(xfi_record, expire_ns, 80);
AT(xfi_record, now_armed, 88);
AT(xfi_record, now_moment, 96);
AT(xfi_record, now_finished, 104);
AT(xfi_record, events_seen, 112);
AT(xfi_record, events_matched, 120);
AT(xfi_record, events_skipped_io, 128);
AT(xfi_record, kicks, 136);
AT(xfi_record, last_rip, 144);
AT(xfi_record, runstate_moment, 152);
AT(xfi_record, flags, 156);
AT(xfi_record, pcpu, 160);
AT(xfi_record, guest_kind, 164);
AT(xfi_record, guest_mode, 168);
AT(xfi_record, hypercall, 172);
AT(xfi_record, flip_domid, 176);
AT(xfi_record, flip_vcpu, 180);
AT(xfi_record, now_flip, 184);
AT(xfi_record, tsc_flip, 192);
AT(xfi_record, before, 200);
AT(xfi_record, after, 392);

SIZE(xfi_status, 600);
AT(xfi_status, version, 0);
AT(xfi_status, state, 4);
AT(xfi_status, id, 8);
AT(xfi_status, record, 16);

SIZE(xfi_disarm, 32);
AT(xfi_disarm, version, 0);
AT(xfi_disarm, by, 4);
AT(xfi_disarm, id, 8);
AT(xfi_disarm, domid, 16);
AT(xfi_disarm, vcpu, 20);
AT(xfi_disarm, nr_disarmed, 24);
AT(xfi_disarm, pad, 28);

SIZE(xfi_memory, 72);
AT(xfi_memory, version, 0);
AT(xfi_memory, cmd, 4);
AT(xfi_memory, addr, 8);
AT(xfi_memory, size, 16);
AT(xfi_memory, op, 20);
AT(xfi_memory, mask, 24);
AT(xfi_memory, before, 32);
AT(xfi_memory, after, 40);
AT(xfi_memory, maddr, 48);
AT(xfi_memory, now_ns, 56);
AT(xfi_memory, tsc, 64);

CHECK(XFI_NR_HYPERCALLS == 64);
SIZE(xfi_profile, 72);
AT(xfi_profile, version, 0);
AT(xfi_profile, cmd, 4);
AT(xfi_profile, domid, 8);
AT(xfi_profile, nr, 12);
AT(xfi_profile, running, 16);
AT(xfi_profile, pad, 20);
AT(xfi_profile, now_start, 24);
AT(xfi_profile, now_end, 32);
AT(xfi_profile, calls, 40);
AT(xfi_profile, cycles, 48);
AT(xfi_profile, sub_calls, 56);
AT(xfi_profile, sub_cycles, 64);
