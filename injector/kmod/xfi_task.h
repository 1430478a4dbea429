/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Flip bits of what the kernel saved when it switched away from a task.
 *
 * /dev/xfi-task: one write() of a request carries it out, the read() that
 * follows on the same descriptor gives the record.
 */
#ifndef XFI_TASK_H
#define XFI_TASK_H

#include <linux/types.h>

#define XFI_TASK_VERSION	1

/* Registers of struct inactive_task_frame, and the saved stack pointer. */
enum xfi_task_reg {
	XFI_TASK_RBX,
	XFI_TASK_RBP,
	XFI_TASK_R12,
	XFI_TASK_R13,
	XFI_TASK_R14,
	XFI_TASK_R15,
	XFI_TASK_RSP,
	XFI_TASK_RET,
	XFI_TASK_NR_REGS
};

enum xfi_task_op {
	XFI_TASK_XOR,
	XFI_TASK_SET,
	XFI_TASK_CLEAR
};

#define XFI_TASK_DUMMY		1	/* everything but the change */

struct xfi_task_request {
	__u32 version;
	__u32 tid;		/* in the caller's pid namespace */
	__u32 reg;
	__u32 op;
	__u32 flags;
	__u32 pad;		/* 0 */
	__u64 mask;
	__u64 start_ticks;	/* /proc/PID/stat, field 22; 0: any */
};

struct xfi_task_record {
	__u32 version;
	__u32 tid;
	__u64 mono_ns;		/* CLOCK_MONOTONIC and _REALTIME at the flip */
	__u64 real_ns;
	__u64 held_ns;		/* all processors stood still for so long */
	__u64 before[XFI_TASK_NR_REGS];
	__u64 after[XFI_TASK_NR_REGS];
	char symbol[80];	/* of the return address, before */
	char comm[16];
};

#endif
