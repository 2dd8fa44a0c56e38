// Distances between the filters of a layer, with the processor's sums in the processor's order, so that both keep the
// same filters: weight i of a pair goes into partial sum i mod 8, in double, and nothing is contracted.

struct Distances {
  const float* w;
  float* d;
  int filters;
  int length;
};

const int PAIRS = 16;    // A block takes 16 filters against 16,
const int STRETCH = 32;  // this many weights of each at a time.
const int SUMS = 8;

// sum + x x with both results rounded, as the processor rounds them.
DEVICE double add_square(double sum, double x) {
#ifdef HOST
  return sum + x * x;
#else
  return __dadd_rn(sum, __dmul_rn(x, x));
#endif
}

KERNEL(filter_distances, Distances) {
  __shared__ float first[PAIRS][STRETCH + 1];
  __shared__ float second[PAIRS][STRETCH + 1];
  // The other half is the mirror image.
  if (blockIdx.x < blockIdx.y) return;
  const int row = (int)threadIdx.x / PAIRS, column = (int)threadIdx.x % PAIRS;
  const int j = (int)blockIdx.y * PAIRS + row, k = (int)blockIdx.x * PAIRS + column;
  double sums[SUMS] = {};
  for (int from = 0; from < p.length; from += STRETCH) {
    for (int i = (int)threadIdx.x; i < PAIRS * STRETCH; i += (int)blockDim.x) {
      const int filter = i / STRETCH, at = i % STRETCH;
      const int of_first = (int)blockIdx.y * PAIRS + filter, of_second = (int)blockIdx.x * PAIRS + filter;
      const bool there = from + at < p.length;
      // Beyond the last weight zeros differ by nothing.
      first[filter][at] = there && of_first < p.filters ? p.w[(i64)of_first * p.length + from + at] : 0.0f;
      second[filter][at] = there && of_second < p.filters ? p.w[(i64)of_second * p.length + from + at] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int at = 0; at < STRETCH; ++at) {
      const double difference = (double)first[row][at] - (double)second[column][at];
      sums[at % SUMS] = add_square(sums[at % SUMS], difference);
    }
    __syncthreads();
  }
  double total = 0.0;
#pragma unroll
  for (int lane = 0; lane < SUMS; ++lane) total += sums[lane];
  if (j < p.filters && k < p.filters) {
    const float distance = (float)sqrt(total);
    p.d[(i64)j * p.filters + k] = distance;
    p.d[(i64)k * p.filters + j] = distance;
  }
}
