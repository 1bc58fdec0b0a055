// For code that is compiled by nvcc for devices and by any compiler for hosts, where tests run it.
#pragma once

#if defined(__CUDACC__)
#define WEIGHTCAST_ANYWHERE __host__ __device__ __forceinline__
#else
#define WEIGHTCAST_ANYWHERE inline
#endif
