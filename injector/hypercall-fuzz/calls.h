/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the fuzzer's parts share. */

#include <stdint.h>
#include "fuzz.h"

#define PAGE 4096

/* Answers that may not be. */
extern unsigned long wrong;

/* 0 or more; or an error's number, negative. */
int hypercall(uint64_t nr, uint64_t a, const volatile void *b);
int xfi(uint32_t cmd, const volatile void *arg);

/* Zeroed, and always there for Xen. */
void *pages(unsigned int nr);

/* How many injections are. */
uint32_t armed(void);
/* Everything off, also the profile; how many were armed. */
uint32_t disarm_all(void);

/* This answer to this block, the i-th of the seed, may not be. */
void complain(const struct fuzz_block *b, uint64_t seed, uint64_t i, int rc);

void races(uint64_t seed, uint64_t count, struct fuzz *f);
