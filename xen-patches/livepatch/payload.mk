# SPDX-License-Identifier: GPL-2.0-only
# Build some objects of Xen's, with its flags, without the hypervisor: what the
# rule of the hypervisor makes before the objects, then ours.
include Makefile

.PHONY: xfi-livepatch asm-generic
# Has a recipe where there is something to do, not on 4.17.
asm-generic:

xfi-livepatch: outputmakefile asm-generic tools_fixdep FORCE
	$(Q)$(MAKE) $(build)=tools
	$(Q)$(MAKE) $(build)=. include/xen/compile.h
	$(Q)$(MAKE) $(build)=include all
	$(Q)$(MAKE) $(build)=arch/$(SRCARCH) include
	$(Q)$(MAKE) $(build)=. arch/$(SRCARCH)/include/asm/asm-offsets.h
	$(Q)$(MAKE) $(build)=arch/$(SRCARCH) $(addprefix arch/$(SRCARCH)/,$(XFI_OBJECTS))
