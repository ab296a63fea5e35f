// One source, compiled for several instruction sets; the loader picks one, once. Elsewhere the
// baseline (NEON on AArch64) is what the compiler vectorises for.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SVDPRUNE_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SVDPRUNE_CLONES
#endif
