// The kernels' language on a processor: threads of a block are fibres that run until they wait for each other, blocks
// run one after the other. The order of threads and blocks turns round at every launch, so that a result that depends
// on it, for want of a barrier, is found out.

#define HOST 1
#include <math.h>
#include <stdint.h>
#include <ucontext.h>

struct Index3 {
  unsigned x, y, z;
};
static thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

#define DEVICE static inline
#define METHOD inline
#define __shared__ static thread_local
#define __restrict__ __restrict

namespace fibres {
const int MOST = 256;
const int STACK = 64 * 1024;
static thread_local ucontext_t scheduler;
static thread_local ucontext_t threads[MOST];
static thread_local bool done[MOST];
static thread_local int running;
static thread_local char* stacks;
static thread_local void (*body)(const void*);
static thread_local const void* params;

static void start() {
  body(params);
  done[running] = true;
  swapcontext(&threads[running], &scheduler);
}

static void wait() { swapcontext(&threads[running], &scheduler); }

// Runs one block; `turned` starts with the last thread.
static void block(int size, bool turned) {
  if (!stacks) stacks = new char[(size_t)MOST * STACK];
  for (int t = 0; t < size; ++t) {
    getcontext(&threads[t]);
    threads[t].uc_stack.ss_sp = stacks + (size_t)t * STACK;
    threads[t].uc_stack.ss_size = STACK;
    threads[t].uc_link = 0;
    makecontext(&threads[t], start, 0);
    done[t] = false;
  }
  bool left = true;
  while (left) {
    left = false;
    for (int i = 0; i < size; ++i) {
      int t = turned ? size - 1 - i : i;
      if (done[t]) continue;
      running = t;
      threadIdx.x = (unsigned)t;
      swapcontext(&scheduler, &threads[t]);
      left = left || !done[t];
    }
  }
}
}  // namespace fibres

static void launch(void (*body)(const void*), const void* params, const unsigned* grid, unsigned size, bool flat,
                   bool turned) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {size, 1, 1};
  unsigned long long blocks = (unsigned long long)grid[0] * grid[1] * grid[2];
  fibres::body = body;
  fibres::params = params;
  for (unsigned long long i = 0; i < blocks; ++i) {
    unsigned long long b = turned ? blocks - 1 - i : i;
    blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
    if (flat) {
      for (unsigned j = 0; j < size; ++j) {
        threadIdx = {turned ? size - 1 - j : j, 0, 0};
        body(params);
      }
    } else {
      fibres::block((int)size, turned);
    }
  }
}

#define HOST_KERNEL(name, Params, flat)                                                                   \
  static inline void name##_body(const Params&);                                                          \
  static void name##_thread(const void* params) { name##_body(*static_cast<const Params*>(params)); }    \
  extern "C" void name(const void* params, const unsigned* grid, unsigned size, int turned) {             \
    launch(name##_thread, params, grid, size, flat, turned != 0);                                         \
  }                                                                                                       \
  extern "C" unsigned name##_bytes() { return (unsigned)sizeof(Params); }                                 \
  static inline void name##_body(const Params& p)
#define KERNEL(name, Params) HOST_KERNEL(name, Params, false)
#define KERNEL_FLAT(name, Params) HOST_KERNEL(name, Params, true)

static inline void __syncthreads() { fibres::wait(); }
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned* at, unsigned by) {
  unsigned old = *at;
  *at += by;
  return old;
}
