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
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "calls.h"

#define PRIVCMD_HYPERCALL 0x305000UL

static int privcmd;
unsigned long wrong;

int hypercall(uint64_t nr, uint64_t a, const volatile void *b)
{
    uint64_t call[6] = { nr, a, (uintptr_t)b, 0, 0, 0 };
    int rc = ioctl(privcmd, PRIVCMD_HYPERCALL, call);

    return rc < 0 ? -errno : rc;
}

int xfi(uint32_t cmd, const volatile void *arg)
{
    return hypercall(XFI_HYPERCALL_NR, cmd, arg);
}

void *pages(unsigned int nr)
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

uint32_t armed(void)
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
uint32_t disarm_all(void)
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

void complain(const struct fuzz_block *b, uint64_t seed, uint64_t i, int rc)
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
