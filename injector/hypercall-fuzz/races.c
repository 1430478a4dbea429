/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Arming, disarming and asking, while domains come and go. */

#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xen/domctl.h>
#include "calls.h"

/* What the processes share. */
static volatile struct shared {
    uint32_t victim;      /* The domain that is to be destroyed; or 0. */
    uint32_t stop;
    uint64_t last_id;
    uint64_t arms, refused, disarms;
} *shared;

static int domctl(uint32_t cmd, uint32_t domid, struct xen_domctl *op)
{
    int rc;

    op->cmd = cmd;
    op->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    op->domain = domid;
    do
        rc = hypercall(__HYPERVISOR_domctl, (uintptr_t)op, NULL);
    while ( rc == -EAGAIN || rc == -EINTR );
    return rc;
}

/* With one vCPU, no memory, and never run. */
static uint32_t create(struct xen_domctl *op, int hvm)
{
    uint32_t domid;
    int rc;

    memset(op, 0, sizeof(*op));
    op->u.createdomain.max_vcpus = 1;
    op->u.createdomain.max_evtchn_port = 127;
    op->u.createdomain.max_grant_frames = 1;
    op->u.createdomain.grant_opts = XEN_DOMCTL_GRANT_version(1);
    if ( hvm )
    {
        op->u.createdomain.flags = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap;
        op->u.createdomain.arch.emulation_flags = XEN_X86_EMU_LAPIC;
    }
    rc = domctl(XEN_DOMCTL_createdomain, 0, op);
    domid = op->domain;
    if ( !rc )
    {
        memset(op, 0, sizeof(*op));
        op->u.max_vcpus.max = 1;
        rc = domctl(XEN_DOMCTL_max_vcpus, domid, op);
    }
    if ( rc )
    {
        fprintf(stderr, "fuzz: creating a %s domain: %d\n", hvm ? "PVH" : "PV", rc);
        exit(2);
    }
    return domid;
}

static void *one(struct fuzz *f, const char *page, uint32_t domid)
{
    struct xfi_arm *a = (void *)page;

    memset(a, 0, sizeof(*a));
    a->version = XFI_ABI_VERSION;
    a->flags = XFI_ARM_DUMMY;
    a->domid = domid;
    a->vcpu = domid == shared->victim ? 0 : fuzz_below(f, 2);
    a->reg = fuzz_below(f, XFI_NR_REGS);
    a->nth = 1 + fuzz_below(f, 3);
    a->trigger = fuzz_below(f, 2);
    a->not_before_ns = fuzz_below(f, 300000);
    a->expire_ns = fuzz_below(f, 2) ? 0 : a->not_before_ns + 1 + fuzz_below(f, 2000000);
    if ( a->trigger == XFI_TRIGGER_KICK )
        a->kick_period_ns = 200000 + fuzz_below(f, 2000000);
    return a;
}

/* Arms, asks, and disarms, until told to stop. */
static void racer(uint64_t seed, int who, const struct fuzz *targets)
{
    struct fuzz f = *targets;
    char *page = pages(1);

    f.state = seed + who;
    /* The one that creates and destroys goes first, where they share a CPU. */
    (void)!nice(10);
    while ( !shared->stop )
    {
        struct xfi_disarm *d = (void *)page;
        struct xfi_status *st = (void *)page;
        struct xfi_arm *a;
        uint32_t victim = shared->victim;
        int rc;

        switch ( fuzz_below(&f, who ? 4 : 8) )
        {
        case 0:
            memset(d, 0, sizeof(*d));
            d->version = XFI_ABI_VERSION;
            d->by = fuzz_below(&f, 3);
            if ( d->by == XFI_DISARM_ID )
                d->id = shared->last_id ?: 1;
            if ( d->by == XFI_DISARM_VCPU )
                d->domid = fuzz_below(&f, 2) ? victim : fuzz_guest(&f);
            rc = xfi(XFI_OP_disarm, d);
            if ( rc )
                complain(&(struct fuzz_block){ .cmd = XFI_OP_disarm, .sane = 1,
                                               .u.disarm = *d }, seed, 0, rc);
            else
                __atomic_fetch_add(&shared->disarms, d->nr_disarmed, __ATOMIC_RELAXED);
            break;

        case 1:
            memset(st, 0, sizeof(*st));
            st->version = XFI_ABI_VERSION;
            st->id = shared->last_id ?: 1;
            rc = xfi(XFI_OP_status, st);
            if ( rc && rc != -ENOENT )
                complain(&(struct fuzz_block){ .cmd = XFI_OP_status, .sane = 1 },
                         seed, 0, rc);
            break;

        default:
            a = one(&f, page, victim && fuzz_below(&f, 2) ? victim : fuzz_guest(&f));
            rc = xfi(XFI_OP_arm, a);
            if ( !rc )
            {
                shared->last_id = a->id;
                __atomic_fetch_add(&shared->arms, 1, __ATOMIC_RELAXED);
            }
            else if ( rc == -EBUSY || rc == -ESRCH || rc == -ENOSPC || rc == -ENOENT )
                __atomic_fetch_add(&shared->refused, 1, __ATOMIC_RELAXED);
            else
                complain(&(struct fuzz_block){ .cmd = XFI_OP_arm, .sane = 1, .u.arm = *a },
                         seed, 0, rc);
        }
    }
    exit(wrong != 0);
}

#define RACERS 3

void races(uint64_t seed, uint64_t count, struct fuzz *f)
{
    struct xen_domctl *op = pages(1);
    char *page = pages(1);
    uint64_t held = 0, ended[8] = { 0 };
    pid_t pids[RACERS];
    int status;

    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if ( shared == MAP_FAILED )
    {
        perror("fuzz: mmap");
        exit(2);
    }
    for ( int i = 0; i < RACERS; i++ )
        if ( (pids[i] = fork()) == 0 )
            racer(seed, i, f);

    for ( uint64_t i = 0; i < count; i++ )
    {
        uint32_t guest = fuzz_guest(f), domid = create(op, i & 1);
        struct xfi_status *st = (void *)page;
        uint64_t id = 0;
        int rc;

        shared->victim = domid;
        /* Not for ever: by others it may be armed all the time. */
        for ( int tries = 0; !id && tries < 20; tries++ )
        {
            struct xfi_arm *a = one(f, page, domid);

            a->expire_ns = 0;
            if ( xfi(XFI_OP_arm, a) == 0 )
                id = a->id;
        }
        memset(op, 0, sizeof(*op));
        if ( guest && (rc = domctl(XEN_DOMCTL_pausedomain, guest, op)) &&
             rc != -ESRCH )
            fprintf(stderr, "fuzz: WRONG: pausing %u: %d\n", guest, rc), wrong++;
        if ( fuzz_below(f, 2) )
            sched_yield();
        memset(op, 0, sizeof(*op));
        rc = domctl(XEN_DOMCTL_destroydomain, domid, op);
        if ( rc )
            fprintf(stderr, "fuzz: WRONG: destroying %u: %d\n", domid, rc), wrong++;
        memset(op, 0, sizeof(*op));
        if ( guest && (rc = domctl(XEN_DOMCTL_unpausedomain, guest, op)) &&
             rc != -ESRCH && rc != -EINVAL )
            fprintf(stderr, "fuzz: WRONG: unpausing %u: %d\n", guest, rc), wrong++;

        if ( id )
        {
            memset(st, 0, sizeof(*st));
            st->version = XFI_ABI_VERSION;
            st->id = id;
            rc = xfi(XFI_OP_status, st);
            /* It never ran: nothing can have fired, and nothing may be armed. */
            if ( rc == 0 && (st->state == XFI_STATE_TARGET_GONE ||
                             st->state == XFI_STATE_DISARMED) )
                held++, ended[st->state]++;
            else if ( rc != -ENOENT )
            {
                fprintf(stderr, "fuzz: WRONG: after domain %u: status %d, state %u\n",
                        domid, rc, rc ? 0 : st->state);
                wrong++;
            }
        }
        if ( (i + 1) % (count / 10 ? count / 10 : 1) == 0 )
        {
            printf("fuzz: %" PRIu64 " of %" PRIu64 " races\n", i + 1, count);
            fflush(stdout);
        }
    }

    shared->stop = 1;
    for ( int i = 0; i < RACERS; i++ )
        if ( waitpid(pids[i], &status, 0) < 0 || status )
            wrong++;
    disarm_all();
    printf("fuzz: done seed=%" PRIu64 " races=%" PRIu64 " armed_when_destroyed=%" PRIu64
           " target_gone=%" PRIu64 " arms=%" PRIu64 " arms_refused=%" PRIu64
           " disarms=%" PRIu64 " left_armed=%u wrong=%lu\n",
           seed, count, held, ended[XFI_STATE_TARGET_GONE], shared->arms,
           shared->refused, shared->disarms, armed(), wrong);
}
