// Optimisers, over many tensors in one launch. Rates change between launches of a recorded step, so they are read.

// a: parameter, b: velocity, c: gradient.
struct Sgd {
  Tensors tensors;
  const float* rate;
  float momentum, decay;
  int nesterov;
};

KERNEL_FLAT(sgd, Sgd) {
  const int t = tensor_of(p.tensors);
  float* parameter = p.tensors.a[t];
  float* velocity = p.tensors.b[t];
  const float* gradient = p.tensors.c[t];
  const u32 start = (blockIdx.x - p.tensors.first[t]) * NUMBERS;
  for (u32 i = start + threadIdx.x; i < start + NUMBERS && i < p.tensors.length[t]; i += blockDim.x) {
    const float g = gradient[i] + p.decay * parameter[i];
    const float v = p.momentum * velocity[i] + g;
    velocity[i] = v;
    parameter[i] -= *p.rate * (p.nesterov ? g + p.momentum * v : v);
  }
}

// a: parameter, b: mean gradient, c: gradient, d: largest gradient (Adamax) or mean square (AdamW).
struct Adam {
  Tensors tensors;
  float* d[TENSORS];
  const float* rates;
  float take, keep, add, eps, decay;
};

KERNEL_FLAT(adamax, Adam) {
  const int t = tensor_of(p.tensors);
  float* parameter = p.tensors.a[t];
  float* mean = p.tensors.b[t];
  float* largest = p.d[t];
  const float* gradient = p.tensors.c[t];
  const u32 start = (blockIdx.x - p.tensors.first[t]) * NUMBERS;
  for (u32 i = start + threadIdx.x; i < start + NUMBERS && i < p.tensors.length[t]; i += blockDim.x) {
    const float g = gradient[i] + p.decay * parameter[i];
    const float m = mean[i] + p.take * (g - mean[i]);
    const float before = p.keep * largest[i];
    const float now = fabsf(g) + p.eps;
    // So that a gradient that is not a number shows.
    const float u = before > now ? before : now;
    mean[i] = m;
    largest[i] = u;
    parameter[i] -= p.rates[0] * (m / u);
  }
}

KERNEL_FLAT(adamw, Adam) {
  const int t = tensor_of(p.tensors);
  float* parameter = p.tensors.a[t];
  float* mean = p.tensors.b[t];
  float* square = p.d[t];
  const float* gradient = p.tensors.c[t];
  const u32 start = (blockIdx.x - p.tensors.first[t]) * NUMBERS;
  for (u32 i = start + threadIdx.x; i < start + NUMBERS && i < p.tensors.length[t]; i += blockDim.x) {
    const float g = gradient[i];
    const float m = mean[i] + p.take * (g - mean[i]);
    const float v = p.keep * square[i] + p.add * (g * g);
    mean[i] = m;
    square[i] = v;
    parameter[i] = p.rates[1] * parameter[i] - p.rates[0] * (m / (sqrtf(v) / p.rates[2] + p.eps));
  }
}
