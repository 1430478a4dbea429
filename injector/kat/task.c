/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The known-answer process: holds known values in all its registers and tells,
 * one line a 64-bit word, which bits of which register changed.
 *
 *   xfi: task kat ready pid=1234 hold=0xSTART..0xEND flags=0xSTART..0xEND read=0xADDR avx=1
 *   xfi-task-kat: reg=xmm3 word=1 expected=0x... found=0x... diff=0x...
 *
 *   task-kat [hold]   the registers, for ever
 *   task-kat flags    the flags, for ever
 *   task-kat rest     the registers, then the flags, then a sleep, which a stop
 *                     by ptrace ends: leaves the only processor to others until
 *                     somebody looks
 *   task-kat read     reads bytes; tells what read(2) returned, and what of the
 *                     registers it should have kept changed:
 *                     xfi-task-kat: read=1
 *
 * No library: what is not here cannot use a register behind our back.
 */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

/* Shared with task.S. Order of registers: public/xfi.h's. */
u64 want_gpr[16], found_gpr[16], want_flags, found_flags, found_rip, task_left;
u8 want_fx[512] __attribute__((aligned(64))), found_fx[512] __attribute__((aligned(64)));
u8 want_ymm[16][32] __attribute__((aligned(64))), found_ymm[16][32] __attribute__((aligned(64)));
u32 have_avx;
u8 task_byte;
static const u64 want_base = 0x7abc12345000;

extern char task_hold_start[], task_hold_end[], task_flags_start[], task_flags_end[];
extern char task_read_at[];
void task_hold(void);
void task_flags(void);
void task_read(void);

static const char *const gpr_name[16] = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
};

#define STINT_NS 5000000UL
#define REST_MS 500
#define USER_DS 0x2bUL
#define FLAGS_SEEN 0xcd5UL /* CF PF AF ZF SF DF OF */

#define SYS_write 1
#define SYS_exit 60
#define SYS_arch_prctl 158
#define SYS_epoll_create 213
#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004
#define SYS_getpid 39
#define SYS_clock_gettime 228
#define SYS_epoll_pwait 281

static long sys5(long nr, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return ret;
}

static long sys(long nr, long a, long b, long c)
{
    return sys5(nr, a, b, c, 0, 0);
}

/* Of this process's running: what others take does not count. */
static u64 now_ns(void)
{
    long t[2];

    sys(SYS_clock_gettime, 2, (long)t, 0);
    return t[0] * 1000000000UL + t[1];
}

void *memset(void *to, int c, u64 n)
{
    u8 *p = to;

    while ( n-- )
        *p++ = (u8)c;
    return to;
}

/* ---- one line at a time -------------------------------------------------- */

static char line[256];
static u32 used;

static void text(const char *s)
{
    while ( *s && used < sizeof(line) )
        line[used++] = *s++;
}

static void hex(u64 value)
{
    char digits[17];
    int i;

    for ( i = 15; i >= 0; i--, value >>= 4 )
        digits[i] = "0123456789abcdef"[value & 15];
    digits[16] = 0;
    text("0x");
    text(digits);
}

static void decimal(long value)
{
    char digits[24];
    int i = sizeof(digits) - 1;
    u64 left = value < 0 ? -(u64)value : (u64)value;

    digits[i] = 0;
    do
        digits[--i] = (char)('0' + left % 10);
    while ( (left /= 10) );
    if ( value < 0 )
        digits[--i] = '-';
    text(digits + i);
}

static void end_line(void)
{
    text("\n");
    sys(SYS_write, 1, (long)line, used);
    used = 0;
}

static void compare(const char *name, int nr, u32 word, u64 want, u64 found)
{
    if ( want == found )
        return;
    text("xfi-task-kat: reg=");
    text(name);
    if ( nr >= 0 )
        decimal(nr);
    text(" word=");
    decimal(word);
    text(" expected=");
    hex(want);
    text(" found=");
    hex(found);
    text(" diff=");
    hex(want ^ found);
    end_line();
}

/* ---- values --------------------------------------------------------------- */

static u64 word_at(const u8 *p, u32 bytes)
{
    u64 value = 0;

    while ( bytes-- )
        value = value << 8 | p[bytes];
    return value;
}

static void put(u8 *p, u64 value, u32 bytes)
{
    for ( ; bytes--; value >>= 8 )
        *p++ = (u8)value;
}

/* Neither all ones nor all zeros in any byte, and no two alike. */
static u64 known(u32 n)
{
    return 0x5aa5c33c96690ff0UL ^ 0x0101010101010101UL * (n + 1);
}

/* The bases last: loading a selector sets them. */
static void load_selectors(void)
{
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(USER_DS));
    sys(SYS_arch_prctl, ARCH_SET_FS, want_base, 0);
    sys(SYS_arch_prctl, ARCH_SET_GS, want_base, 0);
}

static void make_values(void)
{
    u32 i, a, b, c, d;

    for ( i = 0; i < 16; i++ )
        want_gpr[i] = known(i);
    put(want_fx + 0, 0x37f, 2);   /* FCW: all exceptions masked */
    put(want_fx + 4, 0xff, 1);    /* FTW: all in use */
    put(want_fx + 24, 0x1f80, 4); /* MXCSR: all exceptions masked */
    for ( i = 0; i < 8; i++ )
    {
        put(want_fx + 32 + 16 * i, known(0x20 + i) | 1UL << 63, 8);
        put(want_fx + 40 + 16 * i, 0x3fff + i, 2);
    }
    for ( i = 0; i < 16; i++ )
    {
        put(want_fx + 160 + 16 * i, known(0x40 + i), 8);
        put(want_fx + 168 + 16 * i, known(0x60 + i), 8);
        put(want_ymm[i], known(0x40 + i), 8);
        put(want_ymm[i] + 8, known(0x60 + i), 8);
        put(want_ymm[i] + 16, known(0x80 + i), 8);
        put(want_ymm[i] + 24, known(0xa0 + i), 8);
    }
    want_flags = 0x202;
    a = 1, c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if ( (c & (1U << 27)) && (c & (1U << 28)) ) /* OSXSAVE, AVX */
    {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        have_avx = (a & 6) == 6;
    }
}

/* What a flip in the stint left here is put right again. */
static void compare_selectors(void)
{
    u64 ds, es, fs_base, gs_base;

    __asm__ volatile("mov %%ds, %0" : "=r"(ds));
    __asm__ volatile("mov %%es, %0" : "=r"(es));
    sys(SYS_arch_prctl, ARCH_GET_FS, (long)&fs_base, 0);
    sys(SYS_arch_prctl, ARCH_GET_GS, (long)&gs_base, 0);
    compare("ds", -1, 0, USER_DS, ds);
    compare("es", -1, 0, USER_DS, es);
    compare("fs_base", -1, 0, want_base, fs_base);
    compare("gs_base", -1, 0, want_base, gs_base);
    load_selectors();
}

static void compare_all(void)
{
    u32 i, w;

    compare_selectors();
    compare("rip", -1, 0, 0, found_rip);
    found_rip = 0;
    for ( i = 0; i < 16; i++ )
        compare(gpr_name[i], -1, 0, want_gpr[i], found_gpr[i]);
    compare("fcw", -1, 0, word_at(want_fx, 2), word_at(found_fx, 2));
    compare("fsw", -1, 0, word_at(want_fx + 2, 2), word_at(found_fx + 2, 2));
    compare("mxcsr", -1, 0, word_at(want_fx + 24, 4), word_at(found_fx + 24, 4));
    for ( i = 0; i < 8; i++ )
    {
        const u8 *want = want_fx + 32 + 16 * i, *found = found_fx + 32 + 16 * i;

        compare("st", i, 0, word_at(want, 8), word_at(found, 8));
        compare("st", i, 1, word_at(want + 8, 2), word_at(found + 8, 2));
    }
    for ( i = 0; i < 16; i++ )
        for ( w = 0; w < 2; w++ )
            compare("xmm", i, w, word_at(want_fx + 160 + 16 * i + 8 * w, 8),
                    word_at(found_fx + 160 + 16 * i + 8 * w, 8));
    if ( have_avx )
        for ( i = 0; i < 16; i++ )
            for ( w = 2; w < 4; w++ )
                compare("ymm", i, w, word_at(want_ymm[i] + 8 * w, 8),
                        word_at(found_ymm[i] + 8 * w, 8));
}

/* ---- what it does ----------------------------------------------------------- */

static void hold(void)
{
    static u64 rounds = 1000;
    u64 start, took;

    task_left = rounds;
    start = now_ns();
    task_hold();
    took = now_ns() - start;
    compare_all();
    /* A stint that a fault cut short must not set the next one's length. */
    if ( took < STINT_NS / 2 && rounds < 1UL << 32 )
        rounds *= 2;
    else if ( took > STINT_NS * 2 && rounds > 1000 )
        rounds /= 2;
}

static void flags(void)
{
    task_flags();
    compare("rflags", -1, 0, want_flags & FLAGS_SEEN, found_flags & FLAGS_SEEN);
}

static void rest(void)
{
    static long nothing = -1;
    static u8 events[16];
    u64 end;
    u32 i;

    if ( nothing < 0 )
        nothing = sys(SYS_epoll_create, 1, 0, 0);
    hold();
    end = now_ns() + STINT_NS;
    do
        for ( i = 0; i < 64; i++ )
            flags();
    while ( now_ns() < end );
    /* A stop ends this call with EINTR; others it only delays. */
    sys5(SYS_epoll_pwait, nothing, (long)events, 1, REST_MS, 0);
}

static void reads(void)
{
    static const u8 kept[] = { 1, 6, 12, 13, 14, 15 };
    long got;
    u32 i;

    do
    {
        task_read();
        got = (long)found_gpr[0];
        for ( i = 0; i < sizeof(kept); i++ )
            compare(gpr_name[kept[i]], -1, 0, want_gpr[kept[i]], found_gpr[kept[i]]);
        compare("rsp", -1, 0, want_gpr[7], found_gpr[7]);
        text("xfi-task-kat: read=");
        decimal(got);
        end_line();
    } while ( got );
}

static void range(const char *name, const char *from, const char *to)
{
    text(name);
    hex((u64)from);
    text("..");
    hex((u64)to);
}

static int is(const char *a, const char *b)
{
    while ( *a && *a == *b )
        a++, b++;
    return *a == *b;
}

void task_main(const u64 *stack)
{
    const char *mode = stack[0] > 1 ? (const char *)stack[2] : "hold";

    make_values();
    load_selectors();
    text("xfi: task kat ready pid=");
    decimal(sys(SYS_getpid, 0, 0, 0));
    range(" hold=", task_hold_start, task_hold_end);
    range(" flags=", task_flags_start, task_flags_end);
    text(" read=");
    hex((u64)task_read_at);
    text(" avx=");
    decimal(have_avx);
    end_line();
    if ( is(mode, "read") )
        reads();
    else
        for ( ;; )
            (is(mode, "flags") ? flags : is(mode, "rest") ? rest : hold)();
    sys(SYS_exit, 0, 0, 0);
}
