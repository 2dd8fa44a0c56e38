// Filters between the order in which they are trained, [C, C_in, taps] in float, and the one in which convolutions read
// them, [M, taps, C_in] in the type of maps. A layer may use only some of its filters, in an order of its own, and scale them.

const int FILTERS = 80;

struct FiltersIn {
  const float* from[FILTERS];
  Real* to[FILTERS];
  const u32* rows[FILTERS];     // none: all filters
  const float* scale[FILTERS];  // none: 1
  u32 length[FILTERS];          // of what is written
  u32 first[FILTERS];
  int channels[FILTERS];
  int taps[FILTERS];
  int count;
};

KERNEL_FLAT(filters_in, FiltersIn) {
  const int t = owner_of_block(p.first, p.count);
  const float* from = p.from[t];
  Real* to = p.to[t];
  const u32* rows = p.rows[t];
  const float* scale = p.scale[t];
  const u32 channels = (u32)p.channels[t], taps = (u32)p.taps[t];
  const u32 start = (blockIdx.x - p.first[t]) * NUMBERS;
  for (u32 i = start + threadIdx.x; i < start + NUMBERS && i < p.length[t]; i += blockDim.x) {
    const u32 place = i / channels, channel = i - place * channels;
    const u32 filter = place / taps, tap = place - filter * taps;
    const u32 row = rows ? rows[filter] : filter;
    const float weight = from[((i64)row * channels + channel) * taps + tap];
    from_float(to[i], scale ? weight * scale[filter] : weight);
  }
}

struct FiltersOut {
  const Real* from;
  float* to;
  const u32* rows;
  int count;  // filters that were used
  int channels;
  int taps;
};

// A block for each filter of the layer: the gradient of one that was not used is 0.
KERNEL(filters_out, FiltersOut) {
  __shared__ int used_as;
  if (threadIdx.x == 0) used_as = -1;
  __syncthreads();
  for (int i = (int)threadIdx.x; i < p.count; i += (int)blockDim.x) {
    if (p.rows[i] == blockIdx.x) used_as = i;
  }
  __syncthreads();
  const int filter = used_as, length = p.channels * p.taps;
  for (int i = (int)threadIdx.x; i < length; i += (int)blockDim.x) {
    const int channel = i / p.taps, tap = i - channel * p.taps;
    const i64 at = ((i64)filter * p.taps + tap) * p.channels + channel;
    p.to[(i64)blockIdx.x * length + i] = filter < 0 ? 0.0f : to_float(p.from[at]);
  }
}
