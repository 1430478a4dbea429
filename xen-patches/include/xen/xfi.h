/* SPDX-License-Identifier: MIT */
/******************************************************************************
 * xfi.h
 *
 * Soft-error injection: flip bits in a register of a guest's vCPU, once, at a
 * defined moment, and keep a record of what was done; flip bits in Xen's memory;
 * count hypercalls.
 *
 * ` long
 * ` HYPERVISOR_xfi_op(unsigned int cmd, void *arg)
 *
 * @cmd is one of XFI_OP_*, @arg points to the structure of that operation.
 * Privileged callers only: -EPERM for all others, whatever the arguments.
 *
 * The layout is the same for 32-bit and 64-bit callers.  All padding must be
 * zero on input and is zero on output.  This header includes nothing; have
 * <stdint.h> (or equivalent) before it.
 */

#ifndef __XEN_PUBLIC_XFI_H__
#define __XEN_PUBLIC_XFI_H__

/* The number of the hypercall is __HYPERVISOR_arch_7 of xen.h. */
#define XFI_HYPERCALL_NR         55
#define __HYPERVISOR_xfi_op      __HYPERVISOR_arch_7

/* Changes whenever a structure below changes. */
#define XFI_ABI_VERSION          2

/* "XFIxen01", little endian: tells this from whatever else answers here. */
#define XFI_MAGIC                0x31306e6578494658ULL

/*
 * Operations.
 *
 * Unknown ones: -EINVAL.
 */
#define XFI_OP_capabilities      0 /* struct xfi_capabilities */
#define XFI_OP_arm               1 /* struct xfi_arm */
#define XFI_OP_status            2 /* struct xfi_status */
#define XFI_OP_disarm            3 /* struct xfi_disarm */
#define XFI_OP_memory            4 /* struct xfi_memory */
#define XFI_OP_profile           5 /* struct xfi_profile */

/* Registers: xfi_arm.reg, and the index into xfi_regs.r[]. */
#define XFI_REG_RAX              0
#define XFI_REG_RBX              1
#define XFI_REG_RCX              2
#define XFI_REG_RDX              3
#define XFI_REG_RSI              4
#define XFI_REG_RDI              5
#define XFI_REG_RBP              6
#define XFI_REG_RSP              7
#define XFI_REG_R8               8
#define XFI_REG_R9               9
#define XFI_REG_R10              10
#define XFI_REG_R11              11
#define XFI_REG_R12              12
#define XFI_REG_R13              13
#define XFI_REG_R14              14
#define XFI_REG_R15              15
#define XFI_REG_RIP              16
#define XFI_REG_RFLAGS           17
#define XFI_REG_CS               18
#define XFI_REG_SS               19
#define XFI_REG_DS               20
#define XFI_REG_ES               21
#define XFI_REG_FS               22
#define XFI_REG_GS               23
#define XFI_NR_REGS              24

struct xfi_regs {
    uint64_t r[XFI_NR_REGS];
};
typedef struct xfi_regs xfi_regs_t;

/* xfi_arm.op, xfi_memory.op: what is done to the bits in mask. */
#define XFI_MASK_XOR             0
#define XFI_MASK_SET             1
#define XFI_MASK_CLEAR           2

/*
 * xfi_arm.trigger: what is an event.
 *
 * KICK:   at the drawn moment (not_before_ns), and from then on every
 *         kick_period_ns, Xen forces a running vCPU out of the guest; its next
 *         return to the guest is the event.  For a vCPU which isn't running at
 *         that moment the event is when it next is; it is not woken up.
 * SWITCH: any context switch to the vCPU from the drawn moment on.  A vCPU
 *         which merely continues to run is no event.
 * HYPERCALL: no register of the guest's is changed, but one of Xen's, in the
 *         hypercall numbered hypercall: at the nth time that the instruction at
 *         address rip_start is about to be executed by a vCPU which is in a call
 *         made from the drawn moment on.  Parts of a multicall are calls, too,
 *         unless multicall itself is armed; a call that was preempted counts as
 *         another one when it is continued.
 */
#define XFI_TRIGGER_KICK         0
#define XFI_TRIGGER_SWITCH       1
#define XFI_TRIGGER_HYPERCALL    2

/* xfi_arm.domid and .vcpu, with HYPERCALL; xfi_profile.domid: any. */
#define XFI_ANY                  0xffffffffU

/* xfi_arm.flags */
#define XFI_ARM_DUMMY            (1U << 0) /* Do everything but the flip. */
/* Match only these modes.  None given: all of them. */
#define XFI_ARM_USER             (1U << 1)
#define XFI_ARM_KERNEL           (1U << 2)
#define XFI_ARM_HYPERVISOR       (1U << 3)

/* Bounds. */
#define XFI_MAX_DELAY_NS         86400000000000ULL /* Any of the times below. */
#define XFI_MIN_KICK_PERIOD_NS   10000ULL
#define XFI_DEFAULT_KICK_PERIOD_NS 1000000ULL

/* xfi_capabilities.features */
#define XFI_FEAT_KICK            (1ULL << 0)
#define XFI_FEAT_SWITCH          (1ULL << 1)
#define XFI_FEAT_RIP_RANGE       (1ULL << 2)
#define XFI_FEAT_MODE_FILTER     (1ULL << 3)
#define XFI_FEAT_NTH             (1ULL << 4)
#define XFI_FEAT_NOT_BEFORE      (1ULL << 5)
#define XFI_FEAT_EXPIRE          (1ULL << 6)
#define XFI_FEAT_MASK_OPS        (1ULL << 7)  /* Any mask; SET and CLEAR. */
#define XFI_FEAT_DUMMY           (1ULL << 8)
#define XFI_FEAT_SEGMENTS        (1ULL << 9)
#define XFI_FEAT_MEMORY          (1ULL << 10)
#define XFI_FEAT_HYPERCALL       (1ULL << 11)
#define XFI_FEAT_PROFILE         (1ULL << 12)
#define XFI_FEAT_PV              (1ULL << 16)
#define XFI_FEAT_PV32            (1ULL << 17)
#define XFI_FEAT_HVM             (1ULL << 18) /* HVM and PVH. */
#define XFI_FEAT_SVM             (1ULL << 19) /* HVM is by SVM, here. */
#define XFI_FEAT_VMX             (1ULL << 20) /* HVM is by VMX, here. */

/* xfi_capabilities.delivery */
#define XFI_DELIVERY_PATCHED     1
#define XFI_DELIVERY_LIVEPATCH   2

/* XFI_OP_capabilities: all OUT. */
struct xfi_capabilities {
    uint64_t magic;               /* XFI_MAGIC */
    uint32_t abi_version;         /* XFI_ABI_VERSION */
    uint32_t delivery;            /* XFI_DELIVERY_* */
    uint64_t features;            /* XFI_FEAT_* */
    uint32_t nr_slots;            /* Injections armed or kept as a record. */
    uint32_t nr_regs;             /* XFI_NR_REGS */
    uint64_t now_ns;              /* NOW(), the clock of all times in records. */
    uint32_t tsc_khz;
    uint32_t nr_armed;
    /*
     * The bits of each register which can be armed; others are refused.  Less
     * than the architectural width where a changed bit could not reach the
     * guest: Xen itself sets a PV guest's IF and IOPL, VMX refuses to enter a
     * guest with some values.
     */
    struct xfi_regs mask_pv;
    struct xfi_regs mask_pv32;
    struct xfi_regs mask_hvm;
    struct xfi_regs mask_xen;     /* With HYPERCALL. */
};
typedef struct xfi_capabilities xfi_capabilities_t;

/*
 * XFI_OP_arm.
 *
 * -EINVAL:     version, reg, op, mask, trigger, flags, range, times, padding.
 * -ESRCH:      no such domain, or it is being destroyed.
 * -ENOENT:     no such vCPU.
 * -EBUSY:      that vCPU is armed already; or that hypercall, for some of the
 *              same vCPUs.
 * -ENOSPC:     all slots are armed.
 * -EOPNOTSUPP: not for this kind of guest; or rip, with HYPERCALL, on a CPU
 *              where Xen uses a shadow stack.
 * -ENXIO:      HYPERCALL: the address isn't in Xen's text, or in the part of it
 *              which runs on entry to Xen or handles debug exceptions.
 *
 * With HYPERCALL: reg is one of RAX to RIP; of the flags, DUMMY alone.
 */
struct xfi_arm {
    uint32_t version;             /* IN: XFI_ABI_VERSION */
    uint32_t flags;               /* IN: XFI_ARM_* */
    uint32_t domid;               /* IN: HYPERCALL: or XFI_ANY */
    uint32_t vcpu;                /* IN: HYPERCALL: or XFI_ANY */
    uint32_t reg;                 /* IN: XFI_REG_* */
    uint32_t op;                  /* IN: XFI_MASK_* */
    uint32_t trigger;             /* IN: XFI_TRIGGER_* */
    uint32_t hypercall;           /* IN: its number; 0 unless HYPERCALL */
    uint64_t mask;                /* IN: 0 only with XFI_ARM_DUMMY */
    uint64_t rip_start;           /* IN: [start, end); 0,0 is anywhere.
                                     HYPERCALL: the instruction's address */
    uint64_t rip_end;             /* IN: HYPERCALL: 0 */
    uint64_t nth;                 /* IN: fire at this matching event; 1 is the first */
    uint64_t not_before_ns;       /* IN: the drawn moment, from the call on */
    uint64_t kick_period_ns;      /* IN: 0 is the default; with KICK only */
    uint64_t expire_ns;           /* IN: from the call on; 0 is never */
    uint64_t id;                  /* OUT: unique since boot, never 0 */
};
typedef struct xfi_arm xfi_arm_t;

/* xfi_status.state */
#define XFI_STATE_ARMED          1
#define XFI_STATE_FIRED          2
#define XFI_STATE_EXPIRED        3
#define XFI_STATE_DISARMED       4
#define XFI_STATE_TARGET_GONE    5 /* The domain was destroyed first. */
/*
 * The event came, but with the changed value a PV guest would have run with
 * Xen's privilege, or VMX would have refused to enter the guest.  Nothing was
 * changed, before equals after.
 */
#define XFI_STATE_REFUSED        6

/* xfi_record.guest_kind */
#define XFI_GUEST_PV             1
#define XFI_GUEST_HVM            2
#define XFI_GUEST_PVH            3

/*
 * xfi_record.guest_mode.  HYPERVISOR is kernel mode with a RIP in the range
 * which the x86-64 Xen ABI keeps for Xen: a Xen inside an HVM or PVH guest.
 */
#define XFI_MODE_USER            1
#define XFI_MODE_KERNEL          2
#define XFI_MODE_HYPERVISOR      3
#define XFI_MODE_XEN             4 /* Xen itself: HYPERCALL */

/* xfi_record.runstate_moment */
#define XFI_RUNSTATE_RUNNING     0
#define XFI_RUNSTATE_RUNNABLE    1
#define XFI_RUNSTATE_BLOCKED     2
#define XFI_RUNSTATE_OFFLINE     3
#define XFI_RUNSTATE_UNKNOWN     0xffffffffU /* The moment hasn't come. */

/* xfi_record.flags */
#define XFI_REC_FIRED            (1U << 0) /* The fields "at the flip" are valid. */
#define XFI_REC_32BIT            (1U << 1) /* 32-bit PV guest. */
#define XFI_REC_SYSRET           (1U << 2) /* PV: was to return by SYSRET. */
#define XFI_REC_FAILSAFE         (1U << 3) /* PV: the selector didn't load. */

struct xfi_record {
    uint64_t id;
    uint32_t domid;
    uint32_t vcpu;

    /* The request. */
    uint32_t arm_flags;           /* XFI_ARM_* */
    uint32_t reg;                 /* XFI_REG_* */
    uint32_t op;                  /* XFI_MASK_* */
    uint32_t trigger;             /* XFI_TRIGGER_* */
    uint64_t mask;
    uint64_t rip_start;
    uint64_t rip_end;
    uint64_t nth;
    uint64_t not_before_ns;
    uint64_t kick_period_ns;
    uint64_t expire_ns;

    /* Before the flip.  Times are NOW(), in ns. */
    uint64_t now_armed;
    uint64_t now_moment;          /* When the drawn moment was noticed; or 0 */
    uint64_t now_finished;        /* When the state was left; or 0 */
    uint64_t events_seen;         /* HYPERCALL: calls watched */
    uint64_t events_matched;      /* HYPERCALL: hits of the address */
    uint64_t events_skipped_io;   /* HVM: seen, but with I/O (or VMX: with
                                     reg RFLAGS, an event) pending.
                                     HYPERCALL: hit by an interrupt's handler */
    uint64_t kicks;
    uint64_t last_rip;            /* At the last event seen */
    uint32_t runstate_moment;     /* XFI_RUNSTATE_* */
    uint32_t flags;               /* XFI_REC_* */

    /* At the flip. */
    uint32_t pcpu;
    uint32_t guest_kind;          /* XFI_GUEST_*; valid at all times, but 0
                                     if armed for any domain */
    uint32_t guest_mode;          /* XFI_MODE_* */
    uint32_t hypercall;           /* The request's */
    uint32_t flip_domid;          /* Who was hit */
    uint32_t flip_vcpu;
    uint64_t now_flip;
    uint64_t tsc_flip;
    struct xfi_regs before;       /* HYPERCALL: Xen's */
    struct xfi_regs after;
};
typedef struct xfi_record xfi_record_t;

/*
 * XFI_OP_status.
 *
 * A finished record is kept until its slot is needed for another one.
 * -ENOENT: no such id, or no longer.
 */
struct xfi_status {
    uint32_t version;             /* IN: XFI_ABI_VERSION */
    uint32_t state;               /* OUT: XFI_STATE_* */
    uint64_t id;                  /* IN */
    struct xfi_record record;     /* OUT */
};
typedef struct xfi_status xfi_status_t;

/* xfi_disarm.by */
#define XFI_DISARM_ID            0
#define XFI_DISARM_VCPU          1
#define XFI_DISARM_ALL           2

/*
 * XFI_OP_disarm.
 *
 * Finding nothing to disarm is no error.  An injection which is just firing
 * isn't disarmed: nr_disarmed doesn't count it, its state becomes FIRED.
 * ALL also stops the profile.
 */
struct xfi_disarm {
    uint32_t version;             /* IN: XFI_ABI_VERSION */
    uint32_t by;                  /* IN: XFI_DISARM_* */
    uint64_t id;                  /* IN: with ID, else 0 */
    uint32_t domid;               /* IN: with VCPU, else 0 */
    uint32_t vcpu;                /* IN: with VCPU, else 0 */
    uint32_t nr_disarmed;         /* OUT */
    uint32_t pad;                 /* IN: 0 */
};
typedef struct xfi_disarm xfi_disarm_t;

/* xfi_memory.cmd */
#define XFI_MEMORY_PEEK          0
#define XFI_MEMORY_FLIP          1

/*
 * XFI_OP_memory: read, or change now, a word of Xen's own memory.
 *
 * addr is a virtual address as all of Xen's page tables have it: Xen's image
 * (text and read-only data, too), its heap, the frame table and so on.  Not the
 * ranges which belong to one domain.  The change is atomic.
 *
 * -EINVAL: version, cmd, op, size, mask, alignment, padding.
 * -EFAULT: nothing is mapped at addr, or it isn't Xen's.
 * -ENXIO:  what is mapped at addr isn't RAM.
 * -ENOMEM: no address space for a writable mapping.
 */
struct xfi_memory {
    uint32_t version;             /* IN: XFI_ABI_VERSION */
    uint32_t cmd;                 /* IN: XFI_MEMORY_* */
    uint64_t addr;                /* IN: a multiple of size */
    uint32_t size;                /* IN: 1, 2, 4 or 8 bytes */
    uint32_t op;                  /* IN: XFI_MASK_*; 0 with PEEK */
    uint64_t mask;                /* IN: within size; 0 with PEEK, only there */
    uint64_t before;              /* OUT */
    uint64_t after;               /* OUT */
    uint64_t maddr;               /* OUT: the machine address */
    uint64_t now_ns;              /* OUT: NOW() at the change */
    uint64_t tsc;                 /* OUT */
};
typedef struct xfi_memory xfi_memory_t;

/* Hypercalls' numbers are below this. */
#define XFI_NR_HYPERCALLS        64

/* xfi_profile.cmd */
#define XFI_PROFILE_START        0 /* From 0. */
#define XFI_PROFILE_STOP         1 /* What was counted is kept. */
#define XFI_PROFILE_READ         2 /* Of one number; also while running. */

/*
 * XFI_OP_profile: count hypercalls by number, and the TSC cycles spent in them.
 *
 * What is part of a multicall is counted apart; multicall's own cycles include
 * its parts'.  A call which was preempted counts again when it is continued.
 * The cycles of a call that didn't return before the vCPU was switched away
 * from aren't counted.
 *
 * -EINVAL: version, cmd, nr, padding.
 * -EBUSY:  START: one is running.
 * -ESRCH:  START: no such domain.
 * -ENOENT: READ: there has been none.
 * -ENOMEM: START.
 */
struct xfi_profile {
    uint32_t version;             /* IN: XFI_ABI_VERSION */
    uint32_t cmd;                 /* IN: XFI_PROFILE_* */
    uint32_t domid;               /* IN: START: whose, or XFI_ANY; else 0.
                                     OUT: READ: whose */
    uint32_t nr;                  /* IN: READ: hypercall; else 0 */
    uint32_t running;             /* OUT: after this operation */
    uint32_t pad;                 /* IN: 0 */
    /* OUT: READ */
    uint64_t now_start;           /* NOW() at the start */
    uint64_t now_end;             /* NOW() at the end, or now if running */
    uint64_t calls;
    uint64_t cycles;
    uint64_t sub_calls;           /* Parts of multicalls. */
    uint64_t sub_cycles;
};
typedef struct xfi_profile xfi_profile_t;

#endif /* __XEN_PUBLIC_XFI_H__ */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
