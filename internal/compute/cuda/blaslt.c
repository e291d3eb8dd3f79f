//go:build cuda

#include "blaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What of cublasLt.h is used here, by its numbers: they are part of the library's binary interface from 11 to 13.
typedef struct { uint64_t data[8]; } lt_algo;
typedef struct {
	lt_algo algo;
	size_t workspace;
	int state;
	float waves;
	int reserved[4];
} lt_heuristic;
enum { TYPE_F32 = 0, TYPE_BF16 = 14, COMPUTE_F32 = 68, OP_T = 1, DESC_TRANSA = 3, PREF_WORKSPACE = 1 };

struct af_blaslt {
	void *dl, *handle;
	int (*create)(void **);
	int (*destroy)(void *);
	int (*desc_create)(void **, int compute, int scale);
	int (*desc_set)(void *, int attr, const void *, size_t);
	int (*desc_destroy)(void *);
	int (*layout_create)(void **, int type, uint64_t rows, uint64_t cols, int64_t ld);
	int (*layout_destroy)(void *);
	int (*pref_create)(void **);
	int (*pref_set)(void *, int attr, const void *, size_t);
	int (*pref_destroy)(void *);
	int (*heuristic)(void *, void *desc, void *a, void *b, void *c, void *d, void *pref, int want, lt_heuristic *, int *found);
	int (*matmul)(void *, void *desc, const void *alpha, const void *a, void *la, const void *b, void *lb, const void *beta,
		const void *c, void *lc, void *d, void *ld, const lt_algo *, void *workspace, size_t, void *stream);
};

struct af_blaslt_plan {
	af_blaslt *lib;
	void *desc, *w, *x, *d;
	float beta;
	lt_heuristic *ways;
};

static int fail(char *err, size_t len, const char *what, int status) {
	snprintf(err, len, "cublasLt%s: status %d", what, status);
	return -1;
}

static int resolve(af_blaslt *l, char *err, size_t len) {
	const struct { const char *name; void **to; } symbols[] = {
		{"cublasLtCreate", (void **)&l->create},
		{"cublasLtDestroy", (void **)&l->destroy},
		{"cublasLtMatmulDescCreate", (void **)&l->desc_create},
		{"cublasLtMatmulDescSetAttribute", (void **)&l->desc_set},
		{"cublasLtMatmulDescDestroy", (void **)&l->desc_destroy},
		{"cublasLtMatrixLayoutCreate", (void **)&l->layout_create},
		{"cublasLtMatrixLayoutDestroy", (void **)&l->layout_destroy},
		{"cublasLtMatmulPreferenceCreate", (void **)&l->pref_create},
		{"cublasLtMatmulPreferenceSetAttribute", (void **)&l->pref_set},
		{"cublasLtMatmulPreferenceDestroy", (void **)&l->pref_destroy},
		{"cublasLtMatmulAlgoGetHeuristic", (void **)&l->heuristic},
		{"cublasLtMatmul", (void **)&l->matmul},
	};
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
		if (!(*symbols[i].to = dlsym(l->dl, symbols[i].name))) {
			snprintf(err, len, "the library has no %s", symbols[i].name);
			return -1;
		}
	return 0;
}

int af_blaslt_open(af_blaslt **lib, const char *path, char *err, size_t len) {
	static const char *const names[] = {
		"libcublasLt.so.13", "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.12",
	};
	af_blaslt *l = calloc(1, sizeof *l);
	if (!l) {
		snprintf(err, len, "out of memory");
		return -1;
	}
	if (path) {
		l->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	} else {
		for (size_t i = 0; !l->dl && i < sizeof names / sizeof *names; i++)
			l->dl = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	}
	if (!l->dl) {
		snprintf(err, len, "%s", dlerror());
		free(l);
		return -1;
	}
	int status = resolve(l, err, len);
	if (!status && (status = l->create(&l->handle)))
		fail(err, len, "Create", status);
	if (status) {
		l->handle = NULL;
		af_blaslt_close(l);
		return -1;
	}
	*lib = l;
	return 0;
}

void af_blaslt_close(af_blaslt *l) {
	if (l->handle)
		l->destroy(l->handle);
	dlclose(l->dl);
	free(l);
}

// The library counts columns first: row-major dst = x·wᵀ is its column-major dstᵀ [out, rows] = wᵀ's transpose · xᵀ.
static int describe(af_blaslt_plan *p, const af_blaslt_shape *s, char *err, size_t len) {
	af_blaslt *l = p->lib;
	int status, transpose = OP_T;
	if ((status = l->desc_create(&p->desc, COMPUTE_F32, TYPE_F32)))
		return fail(err, len, "MatmulDescCreate", status);
	if ((status = l->desc_set(p->desc, DESC_TRANSA, &transpose, sizeof transpose)))
		return fail(err, len, "MatmulDescSetAttribute", status);
	if ((status = l->layout_create(&p->w, TYPE_BF16, (uint64_t)s->in, (uint64_t)s->out, s->ldw)) ||
		(status = l->layout_create(&p->x, TYPE_BF16, (uint64_t)s->in, (uint64_t)s->rows, s->ldx)) ||
		(status = l->layout_create(&p->d, s->f32 ? TYPE_F32 : TYPE_BF16, (uint64_t)s->out, (uint64_t)s->rows, s->ldd)))
		return fail(err, len, "MatrixLayoutCreate", status);
	return 0;
}

int af_blaslt_plan_new(af_blaslt_plan **plan, af_blaslt *l, const af_blaslt_shape *s, size_t workspace, int want, int *found, char *err,
	size_t len) {
	af_blaslt_plan *p = calloc(1, sizeof *p);
	void *pref = NULL;
	int status = -1;
	if (!p || !(p->ways = calloc((size_t)want, sizeof *p->ways))) {
		snprintf(err, len, "out of memory");
		free(p);
		return -1;
	}
	p->lib = l;
	p->beta = s->add ? 1 : 0;
	if (describe(p, s, err, len))
		goto out;
	if ((status = l->pref_create(&pref)) || (status = l->pref_set(pref, PREF_WORKSPACE, &workspace, sizeof workspace))) {
		fail(err, len, "MatmulPreference", status);
		goto out;
	}
	*found = 0;
	if ((status = l->heuristic(l->handle, p->desc, p->w, p->x, p->d, p->d, pref, want, p->ways, found)))
		fail(err, len, "MatmulAlgoGetHeuristic", status);
out:
	if (pref)
		l->pref_destroy(pref);
	if (status) {
		af_blaslt_plan_free(p);
		return -1;
	}
	*plan = p;
	return 0;
}

void af_blaslt_plan_free(af_blaslt_plan *p) {
	void *layouts[] = {p->w, p->x, p->d};
	for (int i = 0; i < 3; i++)
		if (layouts[i])
			p->lib->layout_destroy(layouts[i]);
	if (p->desc)
		p->lib->desc_destroy(p->desc);
	free(p->ways);
	free(p);
}

int af_blaslt_run(af_blaslt_plan *p, int way, uint64_t x, uint64_t w, uint64_t dst, uint64_t workspace, size_t bytes, void *stream,
	char *err, size_t len) {
	float one = 1;
	int status = p->lib->matmul(p->lib->handle, p->desc, &one, (void *)w, p->w, (void *)x, p->x, &p->beta, (void *)dst, p->d, (void *)dst,
		p->d, &p->ways[way].algo, (void *)workspace, bytes, stream);
	return status ? fail(err, len, "Matmul", status) : 0;
}
