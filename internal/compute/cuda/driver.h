#ifndef AF_DRIVER_H
#define AF_DRIVER_H

#include <cuda.h>
#include <stddef.h>
#include <stdint.h>

// What the driver API has and the binding package lacks. Every function returns a CUresult. Handles are borrowed.

// A launch without its arguments. overlap lets the kernel start before the one ahead of it in the stream is done
// (programmatic dependent launch): it must execute griddepcontrol.wait before it touches what that one writes.
typedef struct {
	uint32_t grid[3], block[3], smem, overlap;
} af_launch;

// args points to the kernel's one parameter, a struct that the driver copies before this returns.
int af_launch_kernel(CUfunction f, CUstream s, const af_launch *l, void *args);

// How many kernels a module has, and the name of the i-th of those n, which the module owns.
int af_module_count(CUmodule m, unsigned *n);
int af_module_name(CUmodule m, unsigned n, unsigned i, const char **name);

// Bytes of shared memory that a launch may ask for; beyond 48 KiB this must be called first.
int af_function_smem(CUfunction f, int bytes);
// Makes the function resident, and reads what it needs: registers a thread, static shared and local memory in bytes.
int af_function_info(CUfunction f, int *regs, int *smem, int *local, int *max_threads);

int af_host_alloc(void **p, size_t bytes); // page-locked

int af_capture_begin(CUstream s);
// Ends a capture and instantiates it. When keep is 0 the captured work is dropped.
int af_capture_end(CUstream s, int keep, CUgraphExec *out);
int af_graph_launch(CUgraphExec g, CUstream s);
int af_graph_free(CUgraphExec g);

// A TMA descriptor (128 bytes at out, of any alignment) of a tensor of rank dimensions, innermost first. strides has rank-1 entries, in
// bytes. Elements outside the tensor read as zero and are not written.
int af_tensor_map(void *out, int type, int rank, uint64_t base, const uint64_t *dims, const uint64_t *strides, const uint32_t *box, int swizzle);

int af_device_id(int ordinal, char pci[16]);
int af_error_text(int code, const char **name, const char **text);

#endif
