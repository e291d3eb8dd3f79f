#pragma once
// Large matrix products through cuBLASLt, opened at run time: the program neither links it nor needs its headers.
#include <stddef.h>
#include <stdint.h>

typedef struct af_blaslt af_blaslt;

// One product of bf16 rows: dst [rows, out] = x [rows, in] · wᵀ, or dst += that. Strides in elements.
typedef struct {
	int64_t rows, out, in, ldx, ldw, ldd;
	int f32; // dst holds float32, else bf16
	int add;
} af_blaslt_shape;

// A plan is a shape with the ways to compute it that the library thinks fastest, best first.
typedef struct af_blaslt_plan af_blaslt_plan;

// Opens the library: path when not NULL, else the usual names. The calling thread has a context. Errors are text in err.
int af_blaslt_open(af_blaslt **lib, const char *path, char *err, size_t len);
// Frees the handle; plans first.
void af_blaslt_close(af_blaslt *lib);

// Up to want ways that need at most workspace bytes; how many were found is in *found. The plan is the caller's to free.
int af_blaslt_plan_new(af_blaslt_plan **plan, af_blaslt *lib, const af_blaslt_shape *shape, size_t workspace, int want, int *found,
	char *err, size_t len);
void af_blaslt_plan_free(af_blaslt_plan *plan);

// Queues the product on a CUstream by one of the plan's ways.
int af_blaslt_run(af_blaslt_plan *plan, int way, uint64_t x, uint64_t w, uint64_t dst, uint64_t workspace, size_t bytes, void *stream,
	char *err, size_t len);
