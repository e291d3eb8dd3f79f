#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "kernels.h"

// Threads of C, not goroutines: a decode step is a hundred operations of some 20 µs, which the Go scheduler cannot wake for.
// A worker spins for a while after its last job, then sleeps. Jobs are claimed one by one, so a worker that is late or
// descheduled costs nothing: the caller does its share.
//
// turn packs (generation << 32 | jobs left). A claim is a compare-and-swap on the whole word, so it succeeds only while the
// generation whose fn and ctx were read is still the current one; the caller opens the next generation only when all jobs of
// this one are done.

enum { SPIN_US = 60 };

struct af_pool {
  int threads; // the caller included
  _Atomic uint64_t turn;
  _Atomic(af_job) fn;
  _Atomic(void *) ctx;
  _Alignas(64) _Atomic int finished;
  _Alignas(64) _Atomic int sleepers;
  _Atomic int stop;
  pthread_mutex_t mu;
  pthread_cond_t wake;
  struct worker {
    pthread_t id;
    af_pool *pool;
    int index;
  } *workers; // threads-1
};

static inline void relax(void) {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

// work does jobs until none is left and reports whether it did any.
static int work(af_pool *p, int worker) {
  int any = 0;
  for (;;) {
    uint64_t t = atomic_load(&p->turn);
    uint32_t left = (uint32_t)t;
    if (left == 0) return any;
    af_job fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
    void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
    if (!atomic_compare_exchange_weak(&p->turn, &t, t - 1)) continue;
    fn(ctx, (int)left - 1, worker);
    any = 1;
    atomic_fetch_add(&p->finished, 1);
  }
}

static void *serve(void *arg) {
  struct worker *w = arg;
  af_pool *p = w->pool;
  int64_t last = now_us();
  for (;;) {
    if (work(p, w->index)) {
      last = now_us();
      continue;
    }
    for (int i = 0; i < 64 && (uint32_t)atomic_load_explicit(&p->turn, memory_order_relaxed) == 0; i++) relax();
    if ((uint32_t)atomic_load(&p->turn) != 0 || now_us() - last < SPIN_US) {
      if (atomic_load(&p->stop)) return NULL;
      continue;
    }
    // sleepers rises before turn is looked at again, and the caller sets turn before it looks at sleepers: one sees the other.
    pthread_mutex_lock(&p->mu);
    atomic_fetch_add(&p->sleepers, 1);
    while ((uint32_t)atomic_load(&p->turn) == 0 && !atomic_load(&p->stop)) pthread_cond_wait(&p->wake, &p->mu);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mu);
    if (atomic_load(&p->stop)) return NULL;
    last = now_us();
  }
}

void af_pool_run(af_pool *p, int jobs, af_job fn, void *ctx) {
  if (jobs <= 1 || p->threads == 1) {
    for (int j = jobs - 1; j >= 0; j--) fn(ctx, j, 0);
    return;
  }
  // turn still counts zero jobs left, so whatever a worker reads here meanwhile, its claim fails.
  atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
  atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
  atomic_store_explicit(&p->finished, 0, memory_order_relaxed);
  uint64_t generation = (atomic_load_explicit(&p->turn, memory_order_relaxed) >> 32) + 1;
  atomic_store(&p->turn, generation << 32 | (uint32_t)jobs);
  if (atomic_load(&p->sleepers) > 0) {
    pthread_mutex_lock(&p->mu);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mu);
  }
  work(p, 0);
  for (int i = 0; atomic_load(&p->finished) != jobs; i++) {
    if (i < 4000) relax();
    else sched_yield(); // the other thread was descheduled in the middle of a job
  }
}

void af_pool_free(af_pool *p) {
  if (!p) return;
  pthread_mutex_lock(&p->mu);
  atomic_store(&p->stop, 1);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mu);
  for (int i = 0; i < p->threads - 1; i++) pthread_join(p->workers[i].id, NULL);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->mu);
  free(p->workers);
  free(p);
}

af_pool *af_pool_new(int threads) {
  af_pool *p = aligned_alloc(64, af_round_up(sizeof *p, 64));
  if (!p) return NULL;
  *p = (af_pool){.threads = 1};
  p->workers = calloc((size_t)threads, sizeof *p->workers);
  if (!p->workers) {
    free(p);
    return NULL;
  }
  pthread_mutex_init(&p->mu, NULL);
  pthread_cond_init(&p->wake, NULL);
  // Go's signals (preemption, profiling) are for threads that Go knows.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int failed = 0;
  for (int i = 0; i < threads - 1 && !failed; i++) {
    p->workers[i] = (struct worker){.pool = p, .index = i + 1};
    failed = pthread_create(&p->workers[i].id, NULL, serve, &p->workers[i]);
    if (!failed) p->threads++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (failed) {
    af_pool_free(p);
    return NULL;
  }
  return p;
}
