// SPDX-License-Identifier: GPL-2.0-only
/*
 * xfi_task: flip bits of a task's saved switch frame.
 *
 * stop_machine() parks every processor in its stopper thread. Whatever ran
 * before has then been switched away from, and its callee-saved registers lie
 * on its kernel stack until it is switched to again: no task, however busy, can
 * be caught running, and none can start meanwhile.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <asm/switch_to.h>

#include "xfi_task.h"

/* /proc shows starts in USER_HZ, always 100 on x86. */
#define NSEC_PER_TICK	(NSEC_PER_SEC / 100)

struct xfi_task_job {
	struct task_struct *task;
	struct xfi_task_request req;
	struct xfi_task_record rec;
};

static void read_frame(struct task_struct *task, u64 *regs)
{
	struct inactive_task_frame *frame = (void *)task->thread.sp;

	regs[XFI_TASK_RBX] = frame->bx;
	regs[XFI_TASK_RBP] = frame->bp;
	regs[XFI_TASK_R12] = frame->r12;
	regs[XFI_TASK_R13] = frame->r13;
	regs[XFI_TASK_R14] = frame->r14;
	regs[XFI_TASK_R15] = frame->r15;
	regs[XFI_TASK_RSP] = task->thread.sp;
	regs[XFI_TASK_RET] = frame->ret_addr;
}

static unsigned long *find_reg(struct task_struct *task, u32 reg)
{
	struct inactive_task_frame *frame = (void *)task->thread.sp;

	switch (reg) {
	case XFI_TASK_RBX: return &frame->bx;
	case XFI_TASK_RBP: return &frame->bp;
	case XFI_TASK_R12: return &frame->r12;
	case XFI_TASK_R13: return &frame->r13;
	case XFI_TASK_R14: return &frame->r14;
	case XFI_TASK_R15: return &frame->r15;
	case XFI_TASK_RSP: return &task->thread.sp;
	default: return &frame->ret_addr;
	}
}

/* The frame must lie in the stack: an earlier flip may have moved it. */
static bool frame_ok(struct task_struct *task)
{
	unsigned long stack = (unsigned long)task_stack_page(task);
	unsigned long sp = task->thread.sp;

	return stack && sp >= stack && IS_ALIGNED(sp, sizeof(long)) &&
	       sp <= stack + THREAD_SIZE - sizeof(struct inactive_task_frame);
}

/* All processors stand still, interrupts are off. */
static int flip(void *data)
{
	struct xfi_task_job *job = data;
	struct task_struct *task = job->task;
	unsigned long *reg;
	u64 start = ktime_get_mono_fast_ns();

	/* Past exit_notify() the stack may be gone. */
	if (READ_ONCE(task->exit_state))
		return -ESRCH;
	/* A stopper thread. */
	if (READ_ONCE(task->on_cpu))
		return -EBUSY;
	if (!frame_ok(task))
		return -EFAULT;

	read_frame(task, job->rec.before);
	reg = find_reg(task, job->req.reg);
	if (!(job->req.flags & XFI_TASK_DUMMY)) {
		switch (job->req.op) {
		case XFI_TASK_XOR:
			*reg ^= job->req.mask;
			break;
		case XFI_TASK_SET:
			*reg |= job->req.mask;
			break;
		default:
			*reg &= ~job->req.mask;
			break;
		}
	}
	/*
	 * With another stack pointer other words are the frame: what the task
	 * will pop, unless that lies outside its stack.
	 */
	if (frame_ok(task)) {
		read_frame(task, job->rec.after);
	} else {
		memcpy(job->rec.after, job->rec.before, sizeof(job->rec.after));
		job->rec.after[XFI_TASK_RSP] = task->thread.sp;
	}
	job->rec.mono_ns = ktime_get_mono_fast_ns();
	job->rec.held_ns = job->rec.mono_ns - start;
	return 0;
}

static int carry_out(struct xfi_task_job *job)
{
	struct xfi_task_request *req = &job->req;
	struct pid *pid;
	int ret;

	if (req->version != XFI_TASK_VERSION || req->reg >= XFI_TASK_NR_REGS ||
	    req->op > XFI_TASK_CLEAR || (req->flags & ~XFI_TASK_DUMMY) ||
	    req->pad || req->tid > INT_MAX)
		return -EINVAL;

	pid = find_get_pid(req->tid);
	job->task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!job->task)
		return -ESRCH;

	ret = -ESRCH;
	if (req->start_ticks &&
	    div_u64(job->task->start_boottime, NSEC_PER_TICK) != req->start_ticks)
		goto out;
	ret = -EINVAL;
	if (job->task == current)
		goto out;

	ret = stop_machine(flip, job, NULL);
	if (ret)
		goto out;
	job->rec.version = XFI_TASK_VERSION;
	job->rec.tid = req->tid;
	job->rec.real_ns = ktime_mono_to_real(ns_to_ktime(job->rec.mono_ns));
	get_task_comm(job->rec.comm, job->task);
	snprintf(job->rec.symbol, sizeof(job->rec.symbol), "%pS",
		 (void *)(unsigned long)job->rec.before[XFI_TASK_RET]);
out:
	put_task_struct(job->task);
	return ret;
}

static int xfi_task_open(struct inode *inode, struct file *file)
{
	if (!capable(CAP_SYS_ADMIN) || !capable(CAP_SYS_PTRACE))
		return -EPERM;
	/* misc_open() left the device here. */
	file->private_data = NULL;
	return nonseekable_open(inode, file);
}

static int xfi_task_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

/* One request a descriptor: nothing to be serialised. */
static ssize_t xfi_task_write(struct file *file, const char __user *buf,
			      size_t len, loff_t *pos)
{
	struct xfi_task_job *job;
	int ret;

	if (len != sizeof(job->req))
		return -EINVAL;
	job = kzalloc(sizeof(*job), GFP_KERNEL);
	if (!job)
		return -ENOMEM;
	ret = -EFAULT;
	if (copy_from_user(&job->req, buf, sizeof(job->req)))
		goto fail;
	ret = carry_out(job);
	if (ret)
		goto fail;
	ret = -EALREADY;
	if (cmpxchg(&file->private_data, NULL, job))
		goto fail;
	return len;
fail:
	kfree(job);
	return ret;
}

static ssize_t xfi_task_read(struct file *file, char __user *buf, size_t len,
			     loff_t *pos)
{
	struct xfi_task_job *job = READ_ONCE(file->private_data);

	if (!job)
		return -ENODATA;
	if (len < sizeof(job->rec))
		return -EINVAL;
	if (copy_to_user(buf, &job->rec, sizeof(job->rec)))
		return -EFAULT;
	return sizeof(job->rec);
}

static const struct file_operations xfi_task_fops = {
	.owner = THIS_MODULE,
	.open = xfi_task_open,
	.release = xfi_task_release,
	.write = xfi_task_write,
	.read = xfi_task_read,
};

static struct miscdevice xfi_task_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "xfi-task",
	.mode = 0600,
	.fops = &xfi_task_fops,
};
module_misc_device(xfi_task_misc);

MODULE_DESCRIPTION("Flips bits of a task's saved switch frame");
MODULE_LICENSE("GPL");
