/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the known-answer guest has for a library. */

typedef unsigned long u64;
typedef unsigned int u32;

/* ---- system calls ------------------------------------------------------- */

#define SYS_write 1
#define SYS_open 2
#define SYS_close 3
#define SYS_read 0
#define SYS_ioctl 16
#define SYS_pipe 22
#define SYS_dup2 33
#define SYS_fork 57
#define SYS_exit 60
#define SYS_mkdir 83
#define SYS_mount 165
#define SYS_reboot 169
#define SYS_sched_setaffinity 203
#define SYS_clock_gettime 228
#define SYS_finit_module 313
#define SYS_getpid 39

static long sys(long nr, long a, long b, long c, long d, long e)
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

void *memset(void *to, int c, u64 n)
{
    char *p = to;

    while ( n-- )
        *p++ = (char)c;
    return to;
}

void *memcpy(void *to, const void *from, u64 n)
{
    char *p = to;
    const char *q = from;

    while ( n-- )
        *p++ = *q++;
    return to;
}

/* ---- one line at a time, one write a line -------------------------------- */

static char line[256];
static u64 len;

static void put(const char *s)
{
    while ( *s && len < sizeof(line) - 1 )
        line[len++] = *s++;
}

static void put_hex(u64 v, int digits)
{
    put("0x");
    for ( int i = digits - 1; i >= 0; i-- )
    {
        char c[2] = { "0123456789abcdef"[v >> (4 * i) & 15], 0 };

        put(c);
    }
}

static void put_dec(long v)
{
    char buf[24];
    int i = sizeof(buf) - 1;
    u64 u = v < 0 ? -(u64)v : (u64)v;

    if ( v < 0 )
        put("-");
    buf[i] = 0;
    do
        buf[--i] = '0' + u % 10;
    while ( u /= 10 );
    put(buf + i);
}

static void end_line(void)
{
    line[len++] = '\n';
    for ( u64 done = 0; done < len; )
    {
        long n = sys(SYS_write, 1, (long)(line + done), len - done, 0, 0);

        if ( n <= 0 && n != -4 /* EINTR */ && n != -11 /* EAGAIN */ )
            break;
        if ( n > 0 )
            done += n;
    }
    len = 0;
}
