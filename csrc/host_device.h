// Marks a function that runs on the host and on the device; an empty word for a C++ compiler.
#pragma once

#ifdef __CUDACC__
#define SVDPRUNE_HOST_DEVICE __host__ __device__
#else
#define SVDPRUNE_HOST_DEVICE
#endif
