/*
 * Stands before the toolkit's own cuda.h in the include path of the Go side, so that gorgonia.org/cu, which calls functions in the
 * form they had up to CUDA 12, also compiles with the headers of CUDA 13. Those give the plain names to newer versions with other
 * parameters; the versions meant here are in every driver all the same, since programs built with CUDA 12 call them.
 */
#ifndef AFTERIMAGE_COMPAT_CUDA_H
#define AFTERIMAGE_COMPAT_CUDA_H

#include_next <cuda.h>

#if CUDA_VERSION >= 13000

#undef cuCtxCreate
#define cuCtxCreate cuCtxCreate_v2
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device);

/* Without a version in the name these are the first versions. */
#undef cuMemAdvise
#undef cuMemPrefetchAsync
#undef cuGraphAddDependencies
#undef cuGraphGetEdges
#undef cuEventElapsedTime /* the newer one does the same, but a driver of CUDA 12.4 lacks it */
CUresult CUDAAPI cuMemAdvise(CUdeviceptr from, size_t count, CUmem_advise advice, CUdevice device);
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr from, size_t count, CUdevice to, CUstream stream);
CUresult CUDAAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count);
CUresult CUDAAPI cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count);
CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);

#endif
#endif
