// What all kernels share. Every kernel takes one structure, and the same text is compiled twice for a GPU (maps of
// float or of bfloat16) and, for tests, twice for the processor (see host.cuh, which then comes first).
//
// Maps lie channels-last, [N, H, W, C]: "rows" are pixels of all images, R = N H W.

#ifndef HOST
#define KERNEL(name, Params)                                         \
  static __device__ __forceinline__ void name##_body(const Params&); \
  extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Params p) { name##_body(p); } \
  static __device__ __forceinline__ void name##_body(const Params& p)
// A kernel whose threads never wait for each other.
#define KERNEL_FLAT(name, Params) KERNEL(name, Params)
#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// The upper half of a float. Conversion rounds to the nearest, ties to even; NaN stays NaN.
struct Bf16 {
  u16 bits;
};

DEVICE float bits_to_float(u32 bits) {
  union {
    u32 bits;
    float value;
  } both;
  both.bits = bits;
  return both.value;
}

#ifdef MAPS_BF16
typedef Bf16 Real;

DEVICE u32 float_to_bits(float value) {
  union {
    u32 bits;
    float value;
  } both;
  both.value = value;
  return both.bits;
}

DEVICE float to_float(Bf16 x) { return bits_to_float((u32)x.bits << 16); }

DEVICE void from_float(Bf16& to, float x) {
  u32 bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    to.bits = (u16)((bits >> 16) | 0x40u);
  } else {
    to.bits = (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}
#else
typedef float Real;

DEVICE float to_float(float x) { return x; }
DEVICE void from_float(float& to, float x) { to = x; }
#endif

// V neighbouring numbers, read and written in one access.
template <int V>
struct alignas(V * sizeof(Real)) Pack {
  Real at[V];
};

template <int V>
DEVICE void load(const Real* from, float (&to)[V]) {
  const Pack<V> pack = *reinterpret_cast<const Pack<V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = to_float(pack.at[i]);
}

template <int V>
DEVICE void store(Real* to, const float (&from)[V]) {
  Pack<V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) from_float(pack.at[i], from[i]);
  *reinterpret_cast<Pack<V>*>(to) = pack;
}

// x in low..high; NaN stays, as in PyTorch.
DEVICE float in_range(float x, float low, float high) { return x <= low ? low : x >= high ? high : x; }

// What of the gradient dy of an output y in low..high reaches the input: all strictly inside. A range without an end holds
// nothing back there.
DEVICE float through(float y, float dy, float low, float high) {
  return y > low && (y < high || high > 3.402823466e38f) ? dy : 0.0f;
}

DEVICE i64 global_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE i64 all_threads() { return (i64)gridDim.x * blockDim.x; }

// Many tensors in one launch: block b works on the tensor whose first block is the last not after b.
const int TENSORS = 96;
const int NUMBERS = 2048;  // of one block

DEVICE int owner_of_block(const u32* first, int count) {
  int low = 0, high = count - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (first[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}
