/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The two loops of the known-answer guest.
 *
 * Both keep known values where a fault may strike and use nothing else: no
 * scratch register, no stack (but pushfq), only memory relative to rip.
 *
 *   kat_gpr_start .. kat_gpr_end       all general registers and rsp
 *   kat_flags_start .. kat_flags_end   the flags
 *
 * While rip lies in such a (half-open) range, a changed bit in what the range
 * guards is seen for certain: every way out of the range stores or compares the
 * guarded values before anything overwrites them.
 */

        .text

        .macro each_gpr do
        \do %rax, 0
        \do %rbx, 1
        \do %rcx, 2
        \do %rdx, 3
        \do %rsi, 4
        \do %rdi, 5
        \do %rbp, 6
        \do %r8,  8
        \do %r9,  9
        \do %r10, 10
        \do %r11, 11
        \do %r12, 12
        \do %r13, 13
        \do %r14, 14
        \do %r15, 15
        .endm

        .macro load reg, nr
        mov     kat_want + 8 * \nr(%rip), \reg
        .endm

        .macro check reg, nr
        cmp     kat_want + 8 * \nr(%rip), \reg
        jne     kat_gpr_out
        .endm

        .macro save reg, nr
        mov     \reg, kat_found + 8 * \nr(%rip)
        .endm

/* void kat_gpr_run(void): until kat_left iterations are done or one register
 * differs; leaves all of them in kat_found. */
        .globl  kat_gpr_run, kat_gpr_start, kat_gpr_end
        .type   kat_gpr_run, @function
kat_gpr_run:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, kat_want + 8 * 7(%rip)
        each_gpr load
        .balign 64
kat_gpr_start:
        each_gpr check
        check   %rsp, 7
        decq    kat_left(%rip)
        jnz     kat_gpr_start
kat_gpr_end:
kat_gpr_out:
        each_gpr save
        save    %rsp, 7
        mov     kat_want + 8 * 7(%rip), %rsp
        pushfq
        popq    kat_found_flags(%rip)
        cld
        mov     %cs, %eax
        mov     %eax, kat_found_sel + 0(%rip)
        mov     %ss, %eax
        mov     %eax, kat_found_sel + 4(%rip)
        mov     %ds, %eax
        mov     %eax, kat_found_sel + 8(%rip)
        mov     %es, %eax
        mov     %eax, kat_found_sel + 12(%rip)
        mov     %fs, %eax
        mov     %eax, kat_found_sel + 16(%rip)
        mov     %gs, %eax
        mov     %eax, kat_found_sel + 20(%rip)
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   kat_gpr_run, . - kat_gpr_run

/* void kat_flags_run(void): until kat_left iterations are done or the flags
 * differ; leaves them in kat_found_flags. The jumps are there to take time: an
 * emulator takes an interrupt only between blocks, and runs nops for nothing. */
        .globl  kat_flags_run, kat_flags_start, kat_flags_end
        .type   kat_flags_run, @function
kat_flags_run:
        pushq   kat_want_flags(%rip)
        popfq
kat_flags_start:
        .rept   256
        jmp     1f
        .balign 16
1:
        .endr
        pushfq
kat_flags_end:
        popq    kat_found_flags(%rip)
        cld
        mov     kat_found_flags(%rip), %rax
        xor     kat_want_flags(%rip), %rax
        jne     2f
        decq    kat_left(%rip)
        jnz     kat_flags_run
2:      ret
        .size   kat_flags_run, . - kat_flags_run

        .globl  _start
        .type   _start, @function
_start:
        xor     %ebp, %ebp
        and     $-16, %rsp
        call    kat_main
        ud2
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
