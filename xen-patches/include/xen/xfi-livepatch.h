/* SPDX-License-Identifier: MIT */
/******************************************************************************
 * xfi-livepatch.h
 *
 * How to call the operations of xfi.h in a Xen that got them by a livepatch.
 *
 * A livepatch can't add a hypercall.  It answers at the number of xsm_op, which
 * a Xen built without XSM doesn't use: -ENOSYS there, livepatch or not, for a
 * call without the magic.  xsm_op has a single argument:
 *
 * ` long
 * ` HYPERVISOR_xsm_op(struct xfi_livepatch_call *call)
 *
 * Callers in 64-bit mode only.  Have <stdint.h> (or equivalent) and xfi.h
 * before this.
 */

#ifndef __XEN_PUBLIC_XFI_LIVEPATCH_H__
#define __XEN_PUBLIC_XFI_LIVEPATCH_H__

/* __HYPERVISOR_xsm_op of xen.h. */
#define XFI_LIVEPATCH_HYPERCALL_NR 27

struct xfi_livepatch_call {
    uint64_t magic;               /* IN: XFI_MAGIC */
    uint32_t cmd;                 /* IN: XFI_OP_* */
    uint32_t pad;                 /* IN: 0 */
    uint64_t arg;                 /* IN: address of the operation's structure */
};
typedef struct xfi_livepatch_call xfi_livepatch_call_t;

#endif /* __XEN_PUBLIC_XFI_LIVEPATCH_H__ */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
