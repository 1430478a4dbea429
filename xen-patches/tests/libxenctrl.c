/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the toolstack takes from libxenctrl is laid out alike in all releases that
 * have patches: one program serves them (toolstack/xenctrl-sys has these numbers).
 */
#include <stddef.h>
#include <xenctrl.h>

#define AT(type, field, offset) \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field)

_Static_assert(sizeof(xc_domaininfo_t) == 112, "xc_domaininfo_t");
AT(xc_domaininfo_t, domain, 0);
AT(xc_domaininfo_t, flags, 4);
AT(xc_domaininfo_t, tot_pages, 8);
AT(xc_domaininfo_t, shared_info_frame, 48);
AT(xc_domaininfo_t, max_vcpu_id, 68);
AT(xc_domaininfo_t, handle, 76);
AT(xc_domaininfo_t, arch_config.emulation_flags, 104);

_Static_assert(sizeof(xc_physinfo_t) == 112, "xc_physinfo_t");
AT(xc_physinfo_t, nr_cpus, 8);
AT(xc_physinfo_t, cpu_khz, 24);
AT(xc_physinfo_t, total_pages, 40);
AT(xc_physinfo_t, free_pages, 48);

_Static_assert(XEN_DOMINF_dying == 1 && XEN_DOMINF_hvm_guest == 2 && XEN_DOMINF_shutdown == 4 &&
               XEN_DOMINF_paused == 8 && XEN_DOMINF_blocked == 16 && XEN_DOMINF_running == 32 &&
               XEN_DOMINF_shutdownshift == 16 && XEN_DOMINF_shutdownmask == 255, "XEN_DOMINF_*");
_Static_assert(XEN_X86_EMU_LAPIC == 1 && XEN_X86_EMU_USE_PIRQ == 512, "XEN_X86_EMU_*");

int (*const list)(xc_interface *, uint32_t, unsigned int, xc_domaininfo_t *) = xc_domain_getinfolist;
int (*const machine)(xc_interface *, xc_physinfo_t *) = xc_physinfo;
int (*const ring)(xc_interface *, char *, unsigned int *, int, int, uint32_t *) = xc_readconsolering;
