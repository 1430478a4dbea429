/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Soft-error injection as a livepatch for a Xen which was built without: xfi.c
 * as the patches have it, and, for what they change elsewhere, three functions
 * replaced:
 *
 *   check_wakeup_from_wait()  called on every way from the scheduler to a guest:
 *                             in continue_pv_domain() last, in hvm_do_resume()
 *                             first.  An event of an HVM vCPU therefore comes
 *                             before I/O is completed; while some is pending
 *                             xfi_tail() lets it pass, and counts it.
 *   arch_domain_teardown()    called on the way to a domain's death, once it is
 *                             dying and its vCPUs are paused.  On 4.17, which
 *                             has no such function, pit_deinit() is.
 *   do_xsm_op()               without XSM it does nothing but return -ENOSYS.
 *
 * Replacing happens while all CPUs are idle, with none of the functions here on
 * any stack.  The timers are the only way back into them that outlives a call,
 * and are killed at that moment.  Xen refuses to load or unload a livepatch
 * while a vCPU sleeps in a wait queue, with its stack put aside.
 */

#include <xen/guest_access.h>
#include <xen/init.h>
#include <xen/livepatch.h>
#include <xen/livepatch_payload.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen/wait.h>

#include <xsm/xsm.h>

#include <public/xfi.h>
#include <public/xfi-livepatch.h>

/* Xen's own text of what is replaced, or not to be called from elsewhere. */
#include "xfi-livepatch-gen.h"

/* What the patches add to the headers. */
static always_inline int xsm_xfi_op(xsm_default_t action)
{
    return xsm_default_action(action, current->domain, NULL);
}

static long do_xfi_op(unsigned int cmd, XEN_GUEST_HANDLE_PARAM(void) arg);

/* There is no boot to run it at. */
#undef __init
#define __init
#undef __initcall
#define __initcall(fn)

#include "xfi.c"

/*
 * What works from here.  Not, for want of a place to hook: anything about the
 * way into hypercalls, and out of them.
 */
#define FEATURES (XFI_FEAT_KICK | XFI_FEAT_SWITCH | XFI_FEAT_RIP_RANGE |       \
                  XFI_FEAT_MODE_FILTER | XFI_FEAT_NTH | XFI_FEAT_NOT_BEFORE |  \
                  XFI_FEAT_EXPIRE | XFI_FEAT_MASK_OPS | XFI_FEAT_DUMMY |       \
                  XFI_FEAT_SEGMENTS | XFI_FEAT_PV | XFI_FEAT_PV32 |            \
                  XFI_FEAT_HVM | XFI_FEAT_SVM | XFI_FEAT_VMX | XFI_FEAT_MEMORY)

void xfi_pv_save_segments(struct vcpu *v)
{
    save_segments(v);
}

void xfi_pv_load_segments(struct vcpu *v)
{
    load_segments(v);
}

static void new_check_wakeup_from_wait(void)
{
    /* Returns only if there is nothing to wake up from. */
    old_check_wakeup_from_wait();

    xfi_check_tail();
}

#ifdef OLD_SIZE_arch_domain_teardown
static int new_arch_domain_teardown(struct domain *d)
{
    xfi_domain_dying(d);

    return old_arch_domain_teardown(d);
}
#else
static void new_pit_deinit(struct domain *d)
{
    xfi_domain_dying(d);

    old_pit_deinit(d);
}
#endif

static long new_do_xsm_op(XEN_GUEST_HANDLE_PARAM(void) op)
{
    struct xfi_livepatch_call call;
    XEN_GUEST_HANDLE_PARAM(void) arg;
    union {
        struct xfi_capabilities caps;
        struct xfi_arm arm;
    } u;
    int rc = xsm_xfi_op(XSM_PRIV);

    if ( rc )
        return rc;

    if ( copy_from_guest(&call, op, 1) )
        return -EFAULT;

    if ( call.magic != XFI_MAGIC )
        return xsm_do_xsm_op(op);

    if ( call.pad )
        return -EINVAL;

    arg.p = _p(call.arg);

    switch ( call.cmd )
    {
    case XFI_OP_capabilities:
        capabilities(&u.caps);
        u.caps.delivery = XFI_DELIVERY_LIVEPATCH;
        u.caps.features &= FEATURES;
        return copy_to_guest(arg, &u.caps, 1) ? -EFAULT : 0;

    case XFI_OP_arm:
        /* Others could never fire. */
        if ( copy_from_guest(&u.arm, arg, 1) )
            return -EFAULT;
        if ( u.arm.trigger > XFI_TRIGGER_SWITCH )
            return -EOPNOTSUPP;
        break;

    case XFI_OP_profile:
        return -EOPNOTSUPP;
    }

    return do_xfi_op(call.cmd, arg);
}

#define REPLACE(fn)                         \
    {                                       \
        .version = LIVEPATCH_PAYLOAD_VERSION, \
        .name = #fn,                        \
        .new_addr = new_ ## fn,             \
        .old_size = OLD_SIZE_ ## fn,        \
    }

/* One array: Xen takes the section for one. */
static struct livepatch_func __used __section(".livepatch.funcs") funcs[] = {
    REPLACE(check_wakeup_from_wait),
#ifdef OLD_SIZE_arch_domain_teardown
    REPLACE(arch_domain_teardown),
#else
    REPLACE(pit_deinit),
#endif
    REPLACE(do_xsm_op),
};

/* All CPUs are idle, interrupts off; the functions aren't replaced yet. */
static void cf_check load(void)
{
    xfi_init();
}
LIVEPATCH_LOAD_HOOK(load);

/* Whoever is at it should disarm first, rather than lose it. */
static int cf_check pre_unload(livepatch_payload_t *payload)
{
    unsigned int nr = ACCESS_ONCE(xfi_nr_armed);

    if ( nr )
        printk(XENLOG_ERR "xfi: %u injections are armed\n", nr);

    return nr ? -EBUSY : 0;
}
LIVEPATCH_PREREVERT_HOOK(pre_unload);

/* As load(); the functions are the old ones again. */
static void cf_check unload(void)
{
    unsigned int i;

    /* Something may have been armed since pre_unload(). */
    for ( i = 0; i < NR_SLOTS; i++ )
    {
        ASSERT(slots[i].state != SLOT_firing);
        kill_timer(&slots[i].timer);
    }
}
LIVEPATCH_UNLOAD_HOOK(unload);

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
