/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The loops of the known-answer process (task.c).
 *
 *   task_hold_start .. task_hold_end     all general, x87, SSE and AVX registers,
 *                                        ds, es, fs_base, gs_base, bit 7 of rip
 *   task_flags_start .. task_flags_end   the flags
 *
 * While rip lies in such a (half-open) range, a changed bit in what the range
 * guards is seen for certain.
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
        mov     want_gpr + 8 * \nr(%rip), \reg
        .endm

        .macro save reg, nr
        mov     \reg, found_gpr + 8 * \nr(%rip)
        .endm

        .macro enter
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, want_gpr + 8 * 7(%rip)
        .endm

        .macro leave_with_all
        save    %rsp, 7
        mov     want_gpr + 8 * 7(%rip), %rsp
        cld
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .endm

/* void task_hold(void): holds the wanted values for task_left rounds and leaves
 * what it then finds. */
        .globl  task_hold, task_hold_start, task_hold_end
        .type   task_hold, @function
task_hold:
        enter
        fxrstor64 want_fx(%rip)
        cmpl    $0, have_avx(%rip)
        je      1f
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovups want_ymm + 32 * \n(%rip), %ymm\n
        .endr
1:
        each_gpr load
        .balign 256
task_hold_start:
        decq    task_left(%rip)
        jnz     task_hold_start
task_hold_end:
        jmp     2f
        /* With bit 7 flipped, either instruction of the loop becomes this one. */
        .org    task_hold_start + 128
        .skip   16, 0x90
        movq    $128, found_rip(%rip)
2:
        each_gpr save
        fxsave64 found_fx(%rip)
        cmpl    $0, have_avx(%rip)
        je      1f
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        vmovups %ymm\n, found_ymm + 32 * \n(%rip)
        .endr
        vzeroupper
1:
        fninit
        leave_with_all
        .size   task_hold, . - task_hold

/* void task_flags(void): jumps take time and leave the flags alone. */
        .globl  task_flags, task_flags_start, task_flags_end
        .type   task_flags, @function
task_flags:
        pushq   want_flags(%rip)
        popfq
task_flags_start:
        .rept   4096
        jmp     1f
        .balign 16
1:
        .endr
        pushfq
task_flags_end:
        popq    found_flags(%rip)
        pushq   $0x202
        popfq
        ret
        .size   task_flags, . - task_flags

/* long task_read(void): read(0, &task_byte, 1) with the wanted values in the
 * registers that a system call keeps. A flip of bit 5 of rip lands behind it. */
        .globl  task_read, task_read_at
        .type   task_read, @function
task_read:
        enter
        load    %rbx, 1
        load    %rbp, 6
        load    %r12, 12
        load    %r13, 13
        load    %r14, 14
        load    %r15, 15
        xor     %eax, %eax
        xor     %edi, %edi
        lea     task_byte(%rip), %rsi
        mov     $1, %edx
        jmp     task_read_at
        .balign 64
task_read_at:
        syscall
        jmp     1f
        .balign 32
        mov     $-4096, %rax
1:
        save    %rax, 0
        save    %rbx, 1
        save    %rbp, 6
        save    %r12, 12
        save    %r13, 13
        save    %r14, 14
        save    %r15, 15
        leave_with_all
        .size   task_read, . - task_read

        .globl  _start
        .type   _start, @function
_start:
        xor     %ebp, %ebp
        mov     %rsp, %rdi
        and     $-16, %rsp
        call    task_main
        ud2
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
