//go:build cuda

#include "driver.h"

#include <stdlib.h>
#include <string.h>

int af_launch_kernel(CUfunction f, CUstream s, const af_launch *l, void *args) {
	CUlaunchAttribute attr;
	memset(&attr, 0, sizeof attr);
	attr.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
	attr.value.programmaticStreamSerializationAllowed = 1;
	CUlaunchConfig c;
	memset(&c, 0, sizeof c);
	c.gridDimX = l->grid[0], c.gridDimY = l->grid[1], c.gridDimZ = l->grid[2];
	c.blockDimX = l->block[0], c.blockDimY = l->block[1], c.blockDimZ = l->block[2];
	c.sharedMemBytes = l->smem;
	c.hStream = s;
	c.attrs = &attr;
	c.numAttrs = l->overlap ? 1 : 0;
	void *params[] = {args};
	return cuLaunchKernelEx(&c, f, params, NULL);
}

int af_module_count(CUmodule m, unsigned *n) { return cuModuleGetFunctionCount(n, m); }

int af_module_name(CUmodule m, unsigned n, unsigned i, const char **name) {
	CUfunction *all = malloc(n * sizeof *all);
	if (!all) return CUDA_ERROR_OUT_OF_MEMORY;
	int rc = cuModuleEnumerateFunctions(all, n, m);
	if (!rc) rc = cuFuncGetName(name, all[i]);
	free(all);
	return rc;
}

int af_function_smem(CUfunction f, int bytes) { return cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes); }

int af_function_info(CUfunction f, int *regs, int *smem, int *local, int *max_threads) {
	int rc = cuFuncGetAttribute(regs, CU_FUNC_ATTRIBUTE_NUM_REGS, f);
	if (!rc) rc = cuFuncGetAttribute(smem, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, f);
	if (!rc) rc = cuFuncGetAttribute(local, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, f);
	if (!rc) rc = cuFuncGetAttribute(max_threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f);
	return rc;
}

int af_host_alloc(void **p, size_t bytes) { return cuMemHostAlloc(p, bytes, CU_MEMHOSTALLOC_PORTABLE); }

// Relaxed: everything that touches this context runs on one thread, so no call of another can slip into the capture, and loading a
// kernel or growing its shared memory meanwhile is fine.
int af_capture_begin(CUstream s) { return cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED); }

int af_capture_end(CUstream s, int keep, CUgraphExec *out) {
	CUgraph g = NULL;
	int rc = cuStreamEndCapture(s, &g);
	if (!rc && keep) rc = cuGraphInstantiateWithFlags(out, g, 0);
	if (!rc && keep) rc = cuGraphUpload(*out, s);
	if (g) cuGraphDestroy(g);
	return rc;
}

int af_graph_launch(CUgraphExec g, CUstream s) { return cuGraphLaunch(g, s); }

int af_graph_free(CUgraphExec g) { return cuGraphExecDestroy(g); }

int af_tensor_map(void *out, int type, int rank, uint64_t base, const uint64_t *dims, const uint64_t *strides, const uint32_t *box, int swizzle) {
	static const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
	CUtensorMap m; // aligned as the driver wants it
	int rc = cuTensorMapEncodeTiled(&m, (CUtensorMapDataType)type, (cuuint32_t)rank, (void *)(uintptr_t)base, (const cuuint64_t *)dims,
		(const cuuint64_t *)strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)swizzle,
		CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	if (!rc) memcpy(out, &m, sizeof m);
	return rc;
}

int af_device_id(int ordinal, char pci[16]) {
	CUdevice d;
	int rc = cuDeviceGet(&d, ordinal);
	return rc ? rc : cuDeviceGetPCIBusId(pci, 16, d);
}

int af_error_text(int code, const char **name, const char **text) {
	int rc = cuGetErrorName((CUresult)code, name);
	return rc ? rc : cuGetErrorString((CUresult)code, text);
}
