// A function compiled twice, for any x86-64 and for AVX2: the module takes the one that its CPU can
// run when it is loaded. With -ffp-contract=off both give the same bits.
#pragma once

// Choosing when loading needs glibc's indirect functions; clang wants another spelling.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define ACCEL_CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define ACCEL_CLONES
#endif
