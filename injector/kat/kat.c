/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The known-answer guest: /init of a guest that holds known values in its
 * registers and tells on its console which bit of which register changed.
 *
 *   xfi: kat ready gpr=0xSTART..0xEND flags=0xSTART..0xEND
 *   xfi-kat: reg=rbx expected=0x... found=0x... diff=0x...
 *
 * With xfi.cpus=N there is one on each of N CPUs, pinned; those but CPU 0's say
 * which they are:
 *
 *   xfi-kat: cpu=1 reg=rbx expected=0x... found=0x... diff=0x...
 *
 * No library: what is not here cannot use a register behind our back.
 */

#include "base.h"
#include "fuzz.h"

/* Shared with kat.S. Order of registers: public/xfi.h's. */
u64 kat_want[16], kat_found[16], kat_want_flags, kat_found_flags, kat_left;
u32 kat_found_sel[6];
static u32 want_sel[6];

extern char kat_gpr_start[], kat_gpr_end[], kat_flags_start[], kat_flags_end[];
void kat_gpr_run(void);
void kat_flags_run(void);

static const char *const reg_name[16] = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
};
static const char *const sel_name[6] = { "cs", "ss", "ds", "es", "fs", "gs" };

#define RSP 7
#define STATUS_FLAGS 0x8d5UL /* CF PF AF ZF SF OF */
#define DF 0x400UL
#define STINT_NS 50000000UL

/* Where this process is pinned; 0 also when it is nowhere. */
static u32 cpu;

static void report(const char *reg, u64 expected, u64 found)
{
    put("xfi-kat: ");
    if ( cpu )
    {
        put("cpu=");
        put_dec(cpu);
        put(" ");
    }
    put("reg=");
    put(reg);
    put(" expected=");
    put_hex(expected, 16);
    put(" found=");
    put_hex(found, 16);
    put(" diff=");
    put_hex(expected ^ found, 16);
    end_line();
}

/* ---- an unprivileged caller ---------------------------------------------- */

#define IOCTL_PRIVCMD_HYPERCALL 0x305000L
#define HYPERVISOR_xen_version 17
#define HYPERVISOR_xfi_op 55
#define OPS 7 /* capabilities arm status disarm memory profile, and an unknown one */

static long hypercall(int fd, u64 nr, u64 a0, void *a1)
{
    u64 call[6] = { nr, a0, (u64)a1, 0, 0, 0 };

    return sys(SYS_ioctl, fd, IOCTL_PRIVCMD_HYPERCALL, (long)call, 0, 0);
}

static void put_error(long ret)
{
    static const struct { long nr; const char *name; } names[] = {
        { -1, "EPERM" }, { -2, "ENOENT" }, { -3, "ESRCH" }, { -6, "ENXIO" },
        { -14, "EFAULT" }, { -19, "ENODEV" }, { -22, "EINVAL" }, { -25, "ENOTTY" },
        { -38, "ENOSYS" }, { -95, "EOPNOTSUPP" },
    };

    put_dec(ret);
    for ( u64 i = 0; i < sizeof(names) / sizeof(names[0]); i++ )
        if ( names[i].nr == ret )
        {
            put(" (");
            put(names[i].name);
            put(")");
        }
}

static void load_module(const char *path)
{
    long fd = sys(SYS_open, (long)path, 0, 0, 0, 0);

    if ( fd < 0 )
        return;
    /*
     * Since XSA-482 the module itself blocks a guest's hypercalls unless told
     * otherwise. Kernels from before take no notice of the parameter.
     */
    sys(SYS_finit_module, fd, (long)"unrestricted=1", 0, 0, 0);
    sys(SYS_close, fd, 0, 0, 0, 0);
}

/* The number behind `word` on the command line; 0 where it isn't there. */
static u64 cmdline_number(const char *word)
{
    static char buf[4096];
    long fd = sys(SYS_open, (long)"/proc/cmdline", 0, 0, 0, 0), n, i, j;
    u64 number;

    if ( fd < 0 )
        return 0;
    n = sys(SYS_read, fd, (long)buf, sizeof(buf) - 1, 0, 0);
    sys(SYS_close, fd, 0, 0, 0, 0);
    for ( i = 0; i < n; i++ )
    {
        if ( i && buf[i - 1] != ' ' )
            continue;
        for ( j = 0; word[j] && i + j < n && buf[i + j] == word[j]; j++ )
            ;
        if ( word[j] )
            continue;
        for ( number = 0, i += j; i < n && buf[i] >= '0' && buf[i] <= '9'; i++ )
            number = number * 10 + buf[i] - '0';
        return number;
    }
    return 0;
}

/* Random calls, of which all are to be refused; see fuzz.h. */
static void fuzz(long fd)
{
    /* Any that are there, and places where Xen is. */
    static struct fuzz f = {
        .text_start = 0xffff82d040200000UL, .text_end = 0xffff82d0403fffffUL,
        .scratch = 0xffff82d040600000UL, .gpr_start = 0x400000, .gpr_end = 0x410000,
        .domids = { 0x7ff0 /* DOMID_SELF */, 1, 2, 3 }, .nr_domids = 4,
    };
    static struct fuzz_block b;
    u64 calls = cmdline_number("xfi.fuzz="), refused = 0, i;

    f.state = cmdline_number("xfi.seed=");
    for ( i = 0; i < XFI_NR_REGS; i++ )
        f.mask[i] = ~0UL;
    for ( i = 0; i < calls; i++ )
    {
        long ret;

        fuzz_next(&f, &b);
        ret = hypercall(fd, HYPERVISOR_xfi_op, b.cmd,
                        fuzz_below(&f, 8) ? (void *)&b.u : (void *)fuzz_odd(&f));
        if ( ret == -1 /* EPERM */ )
            refused++;
        else
        {
            put("xfi-kat: fuzz call=");
            put_dec(i);
            put(" op=");
            put_dec(b.cmd);
            put(" ret=");
            put_error(ret);
            end_line();
        }
    }
    put("xfi-kat: fuzz done seed=");
    put_dec(cmdline_number("xfi.seed="));
    put(" calls=");
    put_dec(calls);
    put(" refused=");
    put_dec(refused);
    end_line();
}

static void try_hypercalls(void)
{
    static u64 arg[256];
    long fd, control;

    /* As the image's builder names it, whatever its place in the order. */
    load_module("/lib/modules/xen-privcmd.ko");
    for ( int i = 0; i < 10; i++ )
    {
        static char path[] = "/lib/modules/10-xen-privcmd.ko";

        path[14] = '0' + i;
        load_module(path);
    }
    fd = sys(SYS_open, (long)"/dev/xen/privcmd", 02 /* O_RDWR */, 0, 0, 0);
    if ( fd < 0 )
    {
        put("xfi-kat: hypercall skipped: open /dev/xen/privcmd: ");
        put_error(fd);
        end_line();
        return;
    }
    /*
     * A guest's kernel may itself refuse privcmd. Only if a harmless hypercall
     * gets through does EPERM for ours come from Xen.
     */
    control = hypercall(fd, HYPERVISOR_xen_version, 0, (void *)0);
    put("xfi-kat: hypercall control xen_version ret=");
    if ( control >= 0 )
        put_hex(control, 8);
    else
        put_error(control);
    end_line();

    for ( u32 op = 0; op < OPS; op++ )
    {
        memset(arg, 0, sizeof(arg));
        arg[0] = 1; /* the ABI version, where an operation has one */
        put("xfi-kat: hypercall op=");
        put_dec(op);
        put(" ret=");
        put_error(hypercall(fd, HYPERVISOR_xfi_op, op, arg));
        end_line();
    }
    put("xfi-kat: hypercall done");
    end_line();
    if ( cmdline_number("xfi.fuzz=") )
        fuzz(fd);
    sys(SYS_close, fd, 0, 0, 0, 0);
}

/* One process on each CPU; the first is the one that was there. */
static void spread(u32 cpus)
{
    u64 mask;
    u32 n;

    for ( n = cpus; --n; )
        if ( sys(SYS_fork, 0, 0, 0, 0, 0) == 0 )
        {
            cpu = n;
            break;
        }
    mask = 1UL << cpu;
    if ( sys(SYS_sched_setaffinity, 0, sizeof(mask), (long)&mask, 0, 0) < 0 )
    {
        put("xfi-kat: no such CPU: ");
        put_dec(cpu);
        end_line();
        if ( cpu )
            sys(SYS_exit, 1, 0, 0, 0, 0);
    }
}

/* ---- the main loop -------------------------------------------------------- */

static u64 now_ns(void)
{
    long ts[2] = { 0, 0 };

    sys(SYS_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)ts, 0, 0, 0);
    return ts[0] * 1000000000UL + ts[1];
}

/*
 * A byte there and back between two processes on one CPU, which does nothing but
 * switch from one to the other: how long `rounds` take, BATCHES times.
 */
#define BATCHES 12

static void pingpong(u64 rounds)
{
    int there[2], back[2];
    char byte = 0;

    if ( sys(SYS_pipe, (long)there, 0, 0, 0, 0) || sys(SYS_pipe, (long)back, 0, 0, 0, 0) )
        return;
    if ( sys(SYS_fork, 0, 0, 0, 0, 0) == 0 )
    {
        while ( sys(SYS_read, there[0], (long)&byte, 1, 0, 0) == 1 && !byte )
            sys(SYS_write, back[1], (long)&byte, 1, 0, 0);
        sys(SYS_exit, 0, 0, 0, 0, 0);
    }
    for ( int batch = 0; batch < BATCHES; batch++ )
    {
        u64 start = now_ns(), i;

        for ( i = 0; i < rounds; i++ )
        {
            sys(SYS_write, there[1], (long)&byte, 1, 0, 0);
            sys(SYS_read, back[0], (long)&byte, 1, 0, 0);
        }
        start = now_ns() - start;
        put("xfi-kat: pingpong rounds=");
        put_dec(rounds);
        put(" ns=");
        put_dec(start);
        end_line();
    }
    byte = 1;
    sys(SYS_write, there[1], (long)&byte, 1, 0, 0);
}

/*
 * Iterations that took `took` should have taken STINT_NS. A stint that a fault
 * cut short tells nothing: to go by it would double the next one each time.
 */
static u64 adapt(u64 iterations, u64 took, int complete)
{
    if ( !complete )
        return iterations;
    if ( took < STINT_NS / 2 )
        iterations *= 2;
    else if ( took > STINT_NS * 2 )
        iterations /= 2;
    if ( iterations < 16 )
        iterations = 16;
    if ( iterations > 1UL << 40 )
        iterations = 1UL << 40;
    return iterations;
}

static void reload_selectors(void)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %1, %%es\n\tmov %2, %%fs\n\tmov %3, %%gs"
                     :: "r"(want_sel[2]), "r"(want_sel[3]), "r"(want_sel[4]), "r"(want_sel[5]));
}

static int gpr_stint(u64 iterations, u64 other_flags, int phase)
{
    u64 flags;
    int bad_sel = 0;

    for ( u64 i = 0; i < 16; i++ )
    {
        u64 v = 0x0123456789abcdefUL + 0x1111111111111111UL * (i + 1);

        v ^= v >> 7 ^ v << 19;
        kat_want[i] = phase ? ~v : v;
    }
    kat_left = iterations;
    kat_gpr_run();

    for ( u64 i = 0; i < 16; i++ )
        if ( kat_found[i] != kat_want[i] )
            report(reg_name[i], kat_want[i], kat_found[i]);
    /* The comparisons leave the status flags in whatever state. */
    flags = kat_found_flags & ~STATUS_FLAGS;
    if ( flags != other_flags )
    {
        report("rflags", other_flags, flags);
        __asm__ volatile("pushq %0\n\tpopfq" :: "r"(other_flags) : "cc", "memory");
    }
    for ( int i = 0; i < 6; i++ )
        if ( kat_found_sel[i] != want_sel[i] )
        {
            report(sel_name[i], want_sel[i], kat_found_sel[i]);
            bad_sel = 1;
        }
    if ( bad_sel )
        reload_selectors();
    return !kat_left;
}

static int flags_stint(u64 iterations, u64 other_flags, int phase)
{
    kat_want_flags = other_flags | (phase ? STATUS_FLAGS | DF : 0);
    kat_left = iterations;
    kat_flags_run();
    if ( kat_found_flags != kat_want_flags )
        report("rflags", kat_want_flags, kat_found_flags);
    return !kat_left;
}

static void put_range(const char *name, const char *start, const char *end)
{
    put(name);
    put_hex((u64)start, 8);
    put("..");
    put_hex((u64)end, 8);
}

void kat_main(void)
{
    u64 gpr_iterations = 1024, flags_iterations = 64, other_flags, t0, t1, t2;

    if ( sys(SYS_getpid, 0, 0, 0, 0, 0) == 1 )
    {
        long fd;

        sys(SYS_mkdir, (long)"/dev", 0755, 0, 0, 0);
        sys(SYS_mkdir, (long)"/proc", 0755, 0, 0, 0);
        sys(SYS_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0);
        sys(SYS_mount, (long)"proc", (long)"/proc", (long)"proc", 0, 0);
        fd = sys(SYS_open, (long)"/dev/console", 02 /* O_RDWR */, 0, 0, 0);
        for ( int i = 0; fd >= 0 && i < 3; i++ )
            sys(SYS_dup2, fd, i, 0, 0, 0);
    }
    if ( cmdline_number("xfi.hypercall=") == 1 )
        try_hypercalls();
    if ( cmdline_number("xfi.pingpong=") )
        pingpong(cmdline_number("xfi.pingpong="));

    /* Learn what the kernel gave us, and check that it is stable. */
    kat_left = 1;
    kat_gpr_run();
    for ( int i = 0; i < 6; i++ )
        want_sel[i] = kat_found_sel[i];
    other_flags = kat_found_flags & ~(STATUS_FLAGS | DF);

    if ( cmdline_number("xfi.cpus=") > 1 )
        spread(cmdline_number("xfi.cpus="));
    if ( cpu )
        goto run;

    put("xfi: kat ready");
    put_range(" gpr=", kat_gpr_start, kat_gpr_end);
    put_range(" flags=", kat_flags_start, kat_flags_end);
    end_line();

 run:
    for ( int phase = 0;; phase = !phase )
    {
        int gpr, flags;

        t0 = now_ns();
        gpr = gpr_stint(gpr_iterations, other_flags, phase);
        t1 = now_ns();
        flags = flags_stint(flags_iterations, other_flags, phase);
        t2 = now_ns();
        gpr_iterations = adapt(gpr_iterations, t1 - t0, gpr);
        flags_iterations = adapt(flags_iterations, t2 - t1, flags);
    }
}
