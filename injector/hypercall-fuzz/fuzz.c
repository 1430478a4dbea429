/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The xfi hypercall from dom0, as no toolstack would call it. For tests.
 *
 *   fuzz blocks SEED COUNT TEXT_START TEXT_END SCRATCH GPR_START GPR_END DOMID...
 *       Random argument blocks, see fuzz.h; and bad addresses of good ones.
 *   fuzz races SEED COUNT DOMID...
 *       Arming, disarming and asking, by three processes, of the vCPUs of DOMIDs,
 *       which are paused and unpaused meanwhile, and of COUNT domains, each of
 *       which is created, armed, and destroyed.
 *
 * Prints its progress, and last "fuzz: done ..."; exit status 1 if an answer was
 * not one of those that it may be.
 */

#define _GNU_SOURCE
#define __XEN_TOOLS__ 1
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xen/domctl.h>
#include "fuzz.h"

#define PRIVCMD_HYPERCALL 0x305000UL
#define PAGE 4096

static int privcmd;
static unsigned long wrong;

static int hypercall(uint64_t nr, uint64_t a, const volatile void *b)
{
    uint64_t call[6] = { nr, a, (uintptr_t)b, 0, 0, 0 };
    int rc = ioctl(privcmd, PRIVCMD_HYPERCALL, call);

    return rc < 0 ? -errno : rc;
}

static int xfi(uint32_t cmd, const volatile void *arg)
{
    return hypercall(XFI_HYPERCALL_NR, cmd, arg);
}

static void *pages(unsigned int nr)
{
    void *p = mmap(NULL, nr * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);

    if ( p == MAP_FAILED )
    {
        perror("fuzz: mmap");
        exit(2);
    }
    return p;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);

    if ( !*text || *end )
    {
        fprintf(stderr, "fuzz: '%s' is no number\n", text);
        exit(2);
    }
    return n;
}

static uint32_t armed(void)
{
    struct xfi_capabilities *caps = pages(1);
    int rc = xfi(XFI_OP_capabilities, caps);
    uint32_t nr = caps->nr_armed;

    if ( rc || caps->magic != XFI_MAGIC )
    {
        fprintf(stderr, "fuzz: no xfi hypercall: %d\n", rc);
        exit(2);
    }
    munmap(caps, PAGE);
    return nr;
}

/* Everything off, also the profile. */
static uint32_t disarm_all(void)
{
    struct xfi_disarm *d = pages(1);
    uint32_t nr;
    int rc;

    d->version = XFI_ABI_VERSION;
    d->by = XFI_DISARM_ALL;
    rc = xfi(XFI_OP_disarm, d);
    nr = d->nr_disarmed;
    if ( rc )
    {
        fprintf(stderr, "fuzz: WRONG: disarming all: %d\n", rc);
        wrong++;
    }
    munmap(d, PAGE);
    return nr;
}

static uint8_t peek(uint64_t addr)
{
    struct xfi_memory *m = pages(1);
    uint8_t value;
    int rc;

    m->version = XFI_ABI_VERSION;
    m->cmd = XFI_MEMORY_PEEK;
    m->addr = addr;
    m->size = 1;
    rc = xfi(XFI_OP_memory, m);
    value = m->before;
    if ( rc )
    {
        fprintf(stderr, "fuzz: peek at %#" PRIx64 ": %d\n", addr, rc);
        exit(2);
    }
    munmap(m, PAGE);
    return value;
}

static void put_back(uint64_t addr, uint8_t value)
{
    uint8_t now = peek(addr);
    struct xfi_memory *m = pages(1);

    m->version = XFI_ABI_VERSION;
    m->cmd = XFI_MEMORY_FLIP;
    m->addr = addr;
    m->size = 1;
    m->mask = now ^ value;
    if ( m->mask && xfi(XFI_OP_memory, m) )
    {
        fprintf(stderr, "fuzz: WRONG: the byte cannot be put back\n");
        wrong++;
    }
    munmap(m, PAGE);
}

/* ---- blocks --------------------------------------------------------------- */

/* What Xen may say, as the header has it; to a sane block, and to an insane one. */
static int may_be(const struct fuzz_block *b, int rc)
{
    switch ( rc )
    {
    case 0:
        return b->sane;

    case -EINVAL:
        return !b->sane;

    case -ESRCH:
        /* A guest did not survive, as another one may, a flip. */
        return b->cmd == XFI_OP_arm || b->cmd == XFI_OP_profile;

    case -ENOENT:
        return b->cmd == XFI_OP_arm || b->cmd == XFI_OP_status ||
               b->cmd == XFI_OP_profile;

    case -EBUSY:
        return b->cmd == XFI_OP_arm || b->cmd == XFI_OP_profile;

    case -ENOSPC:
    case -EOPNOTSUPP:
        return b->cmd == XFI_OP_arm;

    case -ENXIO:
        return b->cmd == XFI_OP_arm || b->cmd == XFI_OP_memory;

    case -EFAULT:
        return b->cmd == XFI_OP_memory;
    }

    return 0;
}

static void complain(const struct fuzz_block *b, uint64_t seed, uint64_t i, int rc)
{
    if ( ++wrong > 10 )
        return;
    fprintf(stderr, "fuzz: WRONG: seed %" PRIu64 " block %" PRIu64
            ": operation %u, %s: %d; words", seed, i, b->cmd,
            b->sane ? "sane" : "insane", rc);
    for ( unsigned int n = 0; n < 12; n++ )
        fprintf(stderr, " %#" PRIx64, b->u.words[n]);
    fputc('\n', stderr);
}

static void blocks(uint64_t seed, uint64_t count, struct fuzz *f)
{
    uint64_t sane = 0, accepted = 0, refused = 0, faults = 0, fired = 0, arms = 0;
    struct fuzz_block b, want;
    /* One writable page, a read-only one, and nothing behind. */
    char *good = pages(3), *read_only = good + PAGE, *none = good + 2 * PAGE;
    uint8_t before = peek(f->scratch);
    struct xfi_capabilities *caps = (void *)good;

    (void)xfi(XFI_OP_capabilities, caps);
    for ( unsigned int i = 0; i < XFI_NR_REGS; i++ )
        f->mask[i] = caps->mask_pv.r[i] & caps->mask_hvm.r[i];
    mprotect(read_only, PAGE, PROT_READ);
    munmap(none, PAGE);

    for ( uint64_t i = 0; i < count; i++ )
    {
        void *at = good;
        int fault = 0, rc;

        fuzz_next(f, &b);
        want = b;
        /* Sane ones, where they can't be read, or written back to. */
        if ( b.sane && fuzz_below(f, 16) == 0 )
        {
            fault = 1;
            switch ( fuzz_below(f, 5) )
            {
            case 0:
                mprotect(read_only, PAGE, PROT_READ | PROT_WRITE);
                memcpy(read_only, &b.u, sizeof(b.u));
                mprotect(read_only, PAGE, PROT_READ);
                at = read_only;
                break;
            case 1: at = none - 8; break;
            case 2: at = NULL; break;
            case 3: at = (void *)0xffff82d040200000UL; break;
            case 4: at = (void *)0x8000000000000000UL; break;
            }
        }
        if ( at == good )
            memcpy(good, &b.u, sizeof(b.u));

        rc = xfi(b.cmd, at);

        if ( fault )
        {
            faults++;
            if ( rc != -EFAULT && (at != read_only || !may_be(&want, rc) || !rc) )
                complain(&want, seed, i, rc);
        }
        else if ( !may_be(&want, rc) )
            complain(&want, seed, i, rc);

        sane += want.sane;
        accepted += !rc;
        refused += rc < 0;
        if ( !rc && b.cmd == XFI_OP_arm )
        {
            arms++;
            f->last_id = ((struct xfi_arm *)good)->id;
        }
        if ( !rc && b.cmd == XFI_OP_status )
            fired += ((struct xfi_status *)good)->state == XFI_STATE_FIRED;
        if ( (i + 1) % (count / 10 ? count / 10 : 1) == 0 )
        {
            printf("fuzz: %" PRIu64 " of %" PRIu64 " blocks\n", i + 1, count);
            fflush(stdout);
        }
    }

    disarm_all();
    put_back(f->scratch, before);
    if ( peek(f->scratch) != before )
        wrong++;
    printf("fuzz: done seed=%" PRIu64 " blocks=%" PRIu64 " sane=%" PRIu64
           " accepted=%" PRIu64 " refused=%" PRIu64 " bad_addresses=%" PRIu64
           " armed=%" PRIu64 " seen_fired=%" PRIu64 " left_armed=%u wrong=%lu\n",
           seed, count, sane, accepted, refused, faults, arms, fired, armed(), wrong);
}

/* ---- races ---------------------------------------------------------------- */

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

static void races(uint64_t seed, uint64_t count, struct fuzz *f)
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

int main(int argc, char **argv)
{
    int first = argc > 1 && strcmp(argv[1], "blocks") == 0 ? 9 : 4;
    struct fuzz f = { 0 };

    if ( argc < first || (strcmp(argv[1], "blocks") && strcmp(argv[1], "races")) )
    {
        fprintf(stderr, "usage: fuzz blocks SEED COUNT TEXT_START TEXT_END SCRATCH"
                        " GPR_START GPR_END DOMID... | races SEED COUNT DOMID...\n");
        return 2;
    }
    privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
    if ( privcmd < 0 )
    {
        perror("fuzz: /dev/xen/privcmd");
        return 2;
    }
    f.state = number(argv[2]);
    for ( int i = first; i < argc && f.nr_domids < FUZZ_DOMIDS; i++ )
        f.domids[f.nr_domids++] = number(argv[i]);
    armed();

    if ( first == 9 )
    {
        f.text_start = number(argv[4]);
        f.text_end = number(argv[5]);
        f.scratch = number(argv[6]);
        f.gpr_start = number(argv[7]);
        f.gpr_end = number(argv[8]);
        blocks(number(argv[2]), number(argv[3]), &f);
    }
    else
        races(number(argv[2]), number(argv[3]), &f);

    return wrong != 0;
}
