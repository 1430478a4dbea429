/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Random argument blocks for the xfi hypercall, a function of a seed. Used in
 * dom0 (injector/hypercall-fuzz) and, from where all are to be refused, in a guest
 * (kat.c).
 *
 * A block is sane, which Xen may accept, or insane: then the last thing that was
 * done to it alone is a reason to refuse it, whatever went before.
 *
 * What Xen would accept it carries out. So that it doesn't harm the host, or a
 * guest that isn't there to be harmed, fuzz_tame() looks at each block once more,
 * by itself and not at how it came about:
 *
 * - a register is changed for real in the known-answer guests alone, in user mode
 *   and within the range of addresses where these expect it; else by a DUMMY,
 *   which does everything but the flip;
 * - in Xen's registers, inside a hypercall, by a DUMMY alone;
 * - in Xen's memory in one byte, which nobody reads, alone. It is put back.
 */

#include <stdint.h>
#include <xen/xfi.h>

#define FUZZ_DOMIDS 4

struct fuzz {
    uint64_t state;               /* The generator's; the seed at first. */
    uint64_t text_start, text_end; /* Xen's. */
    uint64_t scratch;             /* The byte of Xen's. */
    uint64_t gpr_start, gpr_end;  /* Where known-answer guests may be hit. */
    uint32_t domids[FUZZ_DOMIDS]; /* The known-answer guests. */
    uint32_t nr_domids;
    uint64_t last_id;             /* Of the last injection that was armed. */
    uint64_t mask[XFI_NR_REGS];   /* What any guest's registers have. */
};

struct fuzz_block {
    uint32_t cmd;
    int sane;
    union {
        struct xfi_capabilities capabilities;
        struct xfi_arm arm;
        struct xfi_status status;
        struct xfi_disarm disarm;
        struct xfi_memory memory;
        struct xfi_profile profile;
        uint64_t words[1];
    } u;
};

/* SplitMix64. */
static uint64_t fuzz_any(struct fuzz *f)
{
    uint64_t z = f->state += 0x9e3779b97f4a7c15UL;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebUL;
    return z ^ z >> 31;
}

static uint64_t fuzz_below(struct fuzz *f, uint64_t n)
{
    return fuzz_any(f) % n;
}

/* Numbers at which code goes wrong. */
static uint64_t fuzz_odd(struct fuzz *f)
{
    static const uint64_t odd[] = {
        0, 1, 2, 3, 63, 64, 65, 0x7fff, 0x7ff0, 0xffff, 0x7fffffff, 0x80000000,
        0xffffffff, 0x100000000, 0x7fffffffffffUL, 0x800000000000UL,
        0xffff7fffffffffffUL, 0xffff800000000000UL, 0xffff82d040000000UL,
        0xffff830000000000UL, 0xffff87ffffffffffUL, 0xffffffff80000000UL,
        0x7fffffffffffffffUL, 0x8000000000000000UL, ~0UL,
    };

    switch ( fuzz_below(f, 3) )
    {
    case 0:  return odd[fuzz_below(f, sizeof(odd) / sizeof(odd[0]))];
    case 1:  return 1UL << fuzz_below(f, 64);
    default: return fuzz_any(f) >> fuzz_below(f, 64);
    }
}

static uint32_t fuzz_guest(struct fuzz *f)
{
    return f->nr_domids ? f->domids[fuzz_below(f, f->nr_domids)] : 0;
}

/* dom0 or a guest. */
static uint32_t fuzz_domid(struct fuzz *f)
{
    return fuzz_below(f, 4) ? fuzz_guest(f) : 0;
}

static void fuzz_sane_arm(struct fuzz *f, struct xfi_arm *a)
{
    static const uint32_t often[] = { 55, 13, 29, 23, 3, 12, 32, 36 };

    a->version = XFI_ABI_VERSION;
    a->op = fuzz_below(f, 3);
    a->nth = fuzz_below(f, 4) ? 1 : 1 + fuzz_below(f, 100);
    a->not_before_ns = fuzz_below(f, 3) ? 0 : fuzz_below(f, 1000000);
    /* Not for long: slots are few, and each kick costs the host a switch. */
    a->expire_ns = a->not_before_ns + 1 + fuzz_below(f, 4000000);

    if ( fuzz_below(f, 4) == 0 )
    {
        a->trigger = XFI_TRIGGER_HYPERCALL;
        a->flags = XFI_ARM_DUMMY;
        a->hypercall = fuzz_below(f, 4) ? often[fuzz_below(f, 8)]
                                        : fuzz_below(f, XFI_NR_HYPERCALLS);
        a->reg = fuzz_below(f, XFI_REG_RIP + 1);
        a->mask = fuzz_any(f) | 1;
        a->domid = fuzz_below(f, 2) ? XFI_ANY : fuzz_domid(f);
        a->vcpu = a->domid == XFI_ANY || fuzz_below(f, 2) ? XFI_ANY
                                                          : fuzz_below(f, 2);
        a->rip_start = f->text_start +
                       fuzz_below(f, f->text_end - f->text_start + 1);
        return;
    }

    a->trigger = fuzz_below(f, 3) ? XFI_TRIGGER_KICK : XFI_TRIGGER_SWITCH;
    a->reg = fuzz_below(f, XFI_NR_REGS);
    a->mask = f->mask[a->reg] & fuzz_any(f);
    a->flags = XFI_ARM_DUMMY | (fuzz_any(f) & (XFI_ARM_USER | XFI_ARM_KERNEL |
                                               XFI_ARM_HYPERVISOR));
    a->domid = fuzz_domid(f);
    a->vcpu = fuzz_below(f, 2);
    if ( a->trigger == XFI_TRIGGER_KICK && fuzz_below(f, 2) )
        a->kick_period_ns = fuzz_below(f, 16)
                            ? 500000 + fuzz_below(f, 5000000)
                            : XFI_MIN_KICK_PERIOD_NS + fuzz_below(f, 100000);
    if ( fuzz_below(f, 3) == 0 )
    {
        a->rip_start = fuzz_odd(f) >> 1;
        a->rip_end = a->rip_start + 1 + (fuzz_any(f) >> 1);
    }

    /* For real. */
    if ( fuzz_below(f, 16) == 0 && f->nr_domids )
    {
        a->domid = fuzz_guest(f);
        a->flags = XFI_ARM_USER;
        a->reg = fuzz_below(f, XFI_REG_R15 + 1);
        a->mask = 1UL << fuzz_below(f, 64);
        a->rip_start = f->gpr_start;
        a->rip_end = f->gpr_end;
    }
}

static void fuzz_sane_memory(struct fuzz *f, struct xfi_memory *m)
{
    m->version = XFI_ABI_VERSION;
    m->size = 1U << fuzz_below(f, 4);
    if ( fuzz_below(f, 4) == 0 )
    {
        m->cmd = XFI_MEMORY_FLIP;
        m->addr = f->scratch;
        m->size = 1;
        m->op = fuzz_below(f, 3);
        m->mask = 1 + fuzz_below(f, 255);
        return;
    }

    m->cmd = XFI_MEMORY_PEEK;
    switch ( fuzz_below(f, 4) )
    {
    case 0:
        m->addr = f->text_start + fuzz_below(f, f->text_end - f->text_start + 1);
        break;

    case 1: /* All of RAM. */
        m->addr = 0xffff830000000000UL + fuzz_below(f, 0x60000000);
        break;

    case 2: /* Page tables, compatibility table, vmap, frame table. */
        m->addr = 0xffff82c000000000UL + fuzz_below(f, 0x4000000000UL);
        break;

    default:
        m->addr = fuzz_odd(f);
    }
    m->addr &= ~(uint64_t)(m->size - 1);
}

static void fuzz_sane_profile(struct fuzz *f, struct xfi_profile *p)
{
    p->version = XFI_ABI_VERSION;
    p->cmd = fuzz_below(f, 3);
    if ( p->cmd == XFI_PROFILE_START )
        p->domid = fuzz_below(f, 2) ? XFI_ANY : fuzz_domid(f);
    if ( p->cmd == XFI_PROFILE_READ )
        p->nr = fuzz_below(f, XFI_NR_HYPERCALLS);
}

static void fuzz_sane_disarm(struct fuzz *f, struct xfi_disarm *d)
{
    d->version = XFI_ABI_VERSION;
    /* All, more rarely: there would never be much armed. */
    d->by = fuzz_below(f, 16) ? fuzz_below(f, 2) : XFI_DISARM_ALL;
    if ( d->by == XFI_DISARM_ID )
        d->id = fuzz_below(f, 4) ? f->last_id + 1 - fuzz_below(f, f->last_id + 1)
                                 : fuzz_any(f) | 1;
    if ( d->by == XFI_DISARM_VCPU )
    {
        d->domid = fuzz_below(f, 8) ? fuzz_domid(f) : fuzz_odd(f);
        d->vcpu = fuzz_below(f, 8) ? fuzz_below(f, 2) : fuzz_odd(f);
    }
}

/* One reason to refuse it that stands for itself. */
static void fuzz_spoil_arm(struct fuzz *f, struct xfi_arm *a)
{
    switch ( fuzz_below(f, 20) )
    {
    case 0:  a->flags |= 0x10U << fuzz_below(f, 28); break;
    case 1:  a->id = fuzz_any(f) | 1; break;
    case 2:  a->reg = XFI_NR_REGS + fuzz_below(f, 1U << 31); break;
    case 3:  a->op = XFI_MASK_CLEAR + 1 + fuzz_below(f, 1U << 31); break;
    case 4:  a->trigger = XFI_TRIGGER_HYPERCALL + 1 + fuzz_below(f, 1U << 31); break;
    case 5:  a->nth = 0; break;
    case 6:  a->mask = 0; a->flags &= ~XFI_ARM_DUMMY; break;
    case 7:  a->not_before_ns = XFI_MAX_DELAY_NS + 1 + (fuzz_any(f) >> 8); break;
    case 8:  a->expire_ns = XFI_MAX_DELAY_NS + 1 + (fuzz_any(f) >> 8); break;
    case 9:  a->kick_period_ns = XFI_MAX_DELAY_NS + 1 + (fuzz_any(f) >> 8); break;
    case 10: a->kick_period_ns = 1 + fuzz_below(f, XFI_MIN_KICK_PERIOD_NS - 1); break;
    case 11: a->expire_ns = 1 + fuzz_below(f, 1000);
             a->not_before_ns = a->expire_ns + fuzz_below(f, 1000); break;
    case 12: a->trigger = XFI_TRIGGER_SWITCH; a->kick_period_ns = 20000; break;
    case 13: a->trigger = XFI_TRIGGER_KICK; a->hypercall = 1 + fuzz_below(f, 63); break;
    case 14: a->trigger = XFI_TRIGGER_KICK;
             a->rip_end = 1 + (fuzz_any(f) >> 1);
             a->rip_start = a->rip_end + fuzz_below(f, 2); break;
    case 15: a->trigger = XFI_TRIGGER_SWITCH; a->reg = XFI_REG_RFLAGS;
             a->mask |= 1UL << (fuzz_below(f, 2) ? 1 : 32 + fuzz_below(f, 32)); break;
    case 16: a->trigger = XFI_TRIGGER_KICK; a->domid = 0x7ff0 + (fuzz_any(f) >> 40); break;
    case 17: a->trigger = XFI_TRIGGER_KICK; a->vcpu = 8192 + fuzz_below(f, 1U << 31); break;
    case 18: a->trigger = XFI_TRIGGER_HYPERCALL;
             a->hypercall = XFI_NR_HYPERCALLS + fuzz_below(f, 1U << 31); break;
    case 19: a->trigger = XFI_TRIGGER_HYPERCALL;
             a->rip_start = fuzz_below(f, 2) ? fuzz_any(f) >> 17 : f->scratch; break;
    }
}

static void fuzz_spoil(struct fuzz *f, struct fuzz_block *b)
{
    uint32_t wrong = XFI_ABI_VERSION ^ (1U << fuzz_below(f, 32));

    /* Anything, first. */
    for ( unsigned int n = fuzz_below(f, 4); n--; )
        b->u.words[fuzz_below(f, b->cmd == XFI_OP_disarm ? 4 : 9)] = fuzz_odd(f);

    switch ( b->cmd )
    {
    case XFI_OP_arm:
        if ( fuzz_below(f, 8) )
            fuzz_spoil_arm(f, &b->u.arm);
        else
            b->u.arm.version = wrong;
        break;

    case XFI_OP_status:
        if ( fuzz_below(f, 2) )
            b->u.status.version = wrong;
        else
            b->u.status.id = fuzz_below(f, 2) ? 0 : fuzz_any(f) | 1UL << 63;
        break;

    case XFI_OP_disarm:
        switch ( fuzz_below(f, 5) )
        {
        case 0: b->u.disarm.version = wrong; break;
        case 1: b->u.disarm.by = XFI_DISARM_ALL + 1 + fuzz_below(f, 1U << 31); break;
        case 2: b->u.disarm.pad = fuzz_any(f) | 1; break;
        case 3: b->u.disarm.by = XFI_DISARM_ID; b->u.disarm.id = 0; break;
        case 4: b->u.disarm.by = XFI_DISARM_ALL; b->u.disarm.vcpu = fuzz_any(f) | 1; break;
        }
        break;

    case XFI_OP_memory:
        switch ( fuzz_below(f, 9) )
        {
        case 0: b->u.memory.version = wrong; break;
        case 1: b->u.memory.cmd = XFI_MEMORY_FLIP + 1 + fuzz_below(f, 1U << 31); break;
        case 2: b->u.memory.size = 3; break;
        case 3: b->u.memory.size = fuzz_below(f, 2) ? 0 : 16; break;
        case 4: b->u.memory.size = 8; b->u.memory.addr |= 1; break;
        case 5: b->u.memory.cmd = XFI_MEMORY_FLIP; b->u.memory.size = 4;
                b->u.memory.mask = 1UL << 32 | 1; break;
        case 6: b->u.memory.cmd = XFI_MEMORY_PEEK; b->u.memory.mask = fuzz_any(f) | 1; break;
        case 7: b->u.memory.before = fuzz_any(f) | 1; break;
        case 8: b->u.memory.addr = fuzz_any(f) >> 17; break;
        }
        break;

    case XFI_OP_profile:
        switch ( fuzz_below(f, 5) )
        {
        case 0: b->u.profile.version = wrong; break;
        case 1: b->u.profile.cmd = XFI_PROFILE_READ + 1 + fuzz_below(f, 1U << 31); break;
        case 2: b->u.profile.pad = fuzz_any(f) | 1; break;
        case 3: b->u.profile.cmd = XFI_PROFILE_READ;
                b->u.profile.nr = XFI_NR_HYPERCALLS + fuzz_below(f, 1U << 31); break;
        case 4: b->u.profile.cmd = XFI_PROFILE_START;
                b->u.profile.domid = 0x7ff0 + fuzz_below(f, 0x8000); break;
        }
        break;
    }
}

/* See above; also what is left out of the block by how it came about. */
static void fuzz_tame(const struct fuzz *f, struct fuzz_block *b)
{
    struct xfi_arm *a = &b->u.arm;
    struct xfi_memory *m = &b->u.memory;
    uint32_t i;

    if ( b->cmd == XFI_OP_memory && m->cmd == XFI_MEMORY_FLIP &&
         (m->addr != f->scratch || m->size != 1) )
    {
        m->cmd = XFI_MEMORY_PEEK;
        if ( b->sane )
            m->mask = m->op = 0;
    }

    if ( b->cmd != XFI_OP_arm || (a->flags & XFI_ARM_DUMMY) || !a->mask )
        return;

    for ( i = 0; i < f->nr_domids; i++ )
        if ( a->domid == f->domids[i] )
            break;

    if ( i == f->nr_domids || a->trigger == XFI_TRIGGER_HYPERCALL ||
         a->flags != XFI_ARM_USER || a->reg > XFI_REG_R15 ||
         a->rip_start < f->gpr_start || a->rip_end > f->gpr_end || !a->rip_end )
        a->flags |= XFI_ARM_DUMMY;
}

/* The next block. */
static inline void fuzz_next(struct fuzz *f, struct fuzz_block *b)
{
    static const unsigned char ops[16] = {
        XFI_OP_arm, XFI_OP_arm, XFI_OP_arm, XFI_OP_arm, XFI_OP_arm, XFI_OP_arm,
        XFI_OP_status, XFI_OP_status, XFI_OP_disarm, XFI_OP_disarm,
        XFI_OP_memory, XFI_OP_memory, XFI_OP_memory,
        XFI_OP_profile, XFI_OP_profile, XFI_OP_capabilities,
    };

    for ( uint64_t i = 0; i < sizeof(b->u) / 8; i++ )
        b->u.words[i] = 0;
    b->cmd = ops[fuzz_below(f, 16)];
    b->sane = fuzz_below(f, 2);

    switch ( b->cmd )
    {
    case XFI_OP_capabilities:
        if ( !b->sane )
            b->cmd = XFI_OP_profile + 1 + fuzz_below(f, 1U << 31);
        break;

    case XFI_OP_arm:
        fuzz_sane_arm(f, &b->u.arm);
        break;

    case XFI_OP_status:
        b->u.status.version = XFI_ABI_VERSION;
        b->u.status.id = f->last_id + 1 - fuzz_below(f, f->last_id < 80 ? f->last_id + 1 : 80);
        break;

    case XFI_OP_disarm:
        fuzz_sane_disarm(f, &b->u.disarm);
        break;

    case XFI_OP_memory:
        fuzz_sane_memory(f, &b->u.memory);
        break;

    case XFI_OP_profile:
        fuzz_sane_profile(f, &b->u.profile);
        break;
    }

    if ( !b->sane )
        fuzz_spoil(f, b);

    fuzz_tame(f, b);
}
