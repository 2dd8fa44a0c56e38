// The ends of a training step: images from bytes, the loss, running statistics.

// Images of a batch from the whole data set [images, C, H, W] of bytes: cropped, mirrored, normalised by table.
struct Images {
  const u8* data;
  const float* tables;  // [C, 256]
  const int* order;     // [n, 4]: index, rows down, columns right, whether mirrored
  float* to;            // [n, C, H, W]
  int n, c, h, w;
};

KERNEL_FLAT(images, Images) {
  i64 count = (i64)p.n * p.h * p.w * p.c;
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    i64 row = at / p.w;
    int j = (int)(at - row * p.w);
    i64 plane = row / p.h;
    int i = (int)(row - plane * p.h);
    int c = (int)(plane % p.c);
    const int* order = p.order + 4 * (plane / p.c);
    i += order[1];
    j = (order[3] ? p.w - 1 - j : j) + order[2];
    int byte = 0;
    if (i >= 0 && i < p.h && j >= 0 && j < p.w) byte = p.data[(((i64)order[0] * p.c + c) * p.h + i) * p.w + j];
    p.to[at] = p.tables[c * 256 + byte];
  }
}

// Cross-entropy of [n, k] logits, one block for all: loss[0] is the mean, loss[1] how many are right.
struct CrossEntropy {
  const float* logits;
  const u32* labels;
  float* grad;
  double* loss;
  double smoothing;
  int n, k;
};

KERNEL(cross_entropy, CrossEntropy) {
  __shared__ double losses[256];
  __shared__ u32 rights[256];
  const double even = p.smoothing / p.k;
  double loss = 0.0;
  u32 right = 0;
  for (int row = (int)threadIdx.x; row < p.n; row += (int)blockDim.x) {
    const float* z = p.logits + (i64)row * p.k;
    const int label = (int)p.labels[row];
    int best = 0;
    double mean = 0.0;
    for (int i = 0; i < p.k; ++i) {
      if (z[i] > z[best]) best = i;
      mean += z[i];
    }
    mean /= p.k;
    const double top = z[best];
    double sum = 0.0;
    for (int i = 0; i < p.k; ++i) sum += exp((double)z[i] - top);
    const double log_sum = top + log(sum);
    // A label beyond the classes cannot be reported from here; its loss is not a number, which is.
    const double own = label < p.k ? (double)z[label] : (double)bits_to_float(0x7fc00000u);
    right += best == label && own == own;
    loss += log_sum - (1.0 - p.smoothing) * own - p.smoothing * mean;
    for (int i = 0; i < p.k; ++i) {
      const double target = even + (i == label ? 1.0 - p.smoothing : 0.0);
      p.grad[(i64)row * p.k + i] = (float)((exp((double)z[i] - log_sum) - target) / p.n);
    }
  }
  losses[threadIdx.x] = loss;
  rights[threadIdx.x] = right;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      losses[threadIdx.x] += losses[threadIdx.x + half];
      rights[threadIdx.x] += rights[threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    p.loss[0] = losses[0] / p.n;
    p.loss[1] = (double)rights[0];
  }
}

struct Tensors {
  float* a[TENSORS];
  float* b[TENSORS];
  const float* c[TENSORS];
  u32 length[TENSORS];
  u32 first[TENSORS];
  int count;
};

DEVICE int tensor_of(const Tensors& t) { return owner_of_block(t.first, t.count); }

// a = keep b + add[t] c: running statistics.
struct Blend {
  Tensors tensors;
  float keep[TENSORS];
  float add[TENSORS];
};

KERNEL_FLAT(blend, Blend) {
  const int t = tensor_of(p.tensors);
  const u32 start = (blockIdx.x - p.tensors.first[t]) * NUMBERS;
  for (u32 i = start + threadIdx.x; i < start + NUMBERS && i < p.tensors.length[t]; i += blockDim.x) {
    p.tensors.a[t][i] = p.keep[t] * p.tensors.b[t][i] + p.add[t] * p.tensors.c[t][i];
  }
}
