// Arithmetic shared by host and device compilers is marked ACCEL_BOTH.
#pragma once

#ifdef __CUDACC__
#define ACCEL_BOTH __host__ __device__ inline
#else
#define ACCEL_BOTH inline
#endif
