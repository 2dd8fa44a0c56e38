// Batch norm with activation and residual, and sums over channels.
//
// A reduction is shared by `gridDim.y` blocks for every tile of channels. Each leaves its part in `parts`; the block
// that comes last joins them, always in the same order, and sets the counter back to zero for the next launch.

struct Rows {
  i64 rows;
  int channels;
  int vector;  // channels that a thread takes at once: 1, 2 or 4, a divisor of `channels`
  int lanes;   // threads side by side over channels, a power of two
};

// What a block of a reduction works on.
struct Share {
  int row, step;     // this thread's first row within the block, and threads over rows
  int channel;       // this thread's first channel; not below `channels`: nothing to do
  i64 start, end;    // the block's rows
};

DEVICE i64 share_start(const Rows& r, unsigned block) {
  i64 size = (r.rows + gridDim.y - 1) / gridDim.y;
  i64 start = size * block;
  return start < r.rows ? start : r.rows;
}

DEVICE Share share(const Rows& r) {
  Share s;
  int lane = (int)threadIdx.x % r.lanes;
  s.row = (int)threadIdx.x / r.lanes;
  s.step = (int)blockDim.x / r.lanes;
  s.channel = ((int)blockIdx.x * r.lanes + lane) * r.vector;
  s.start = share_start(r, blockIdx.y);
  s.end = share_start(r, blockIdx.y + 1);
  return s;
}

// Whether this block is the last of its tile of channels; all its threads learn it.
DEVICE bool comes_last(u32* counter) {
  __shared__ u32 before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    before = atomicAdd(counter + blockIdx.x, 1u);
    if (before == gridDim.y - 1) counter[blockIdx.x] = 0;
  }
  __syncthreads();
  bool last = before == gridDim.y - 1;
  __threadfence();
  return last;
}

// Mean and squares about it of two sets joined (Chan, Golub and LeVeque 1979).
DEVICE void join(float& mean, float& squares, float count, float other_mean, float other_squares, float other_count) {
  float sum = count + other_count;
  if (other_count > 0.0f) {
    float d = other_mean - mean;
    mean += d * (other_count / sum);
    squares += other_squares + d * d * (count * (other_count / sum));
  }
}

struct Measure {
  const Real* x;
  const float* gamma;
  float* parts;  // [gridDim.y, channels, 2]
  u32* counter;
  float* mean;
  float* var;
  float* scale;  // gamma / sqrt(var + eps)
  double eps;
  Rows rows;
};

template <int V>
DEVICE void measure(const Measure& p, double* memory) {
  float* means = reinterpret_cast<float*>(memory);
  float* squares = means + 256 * V;
  float* counts = squares + 256 * V;
  const int channels = p.rows.channels, lanes = p.rows.lanes;
  const Share s = share(p.rows);
  const bool active = s.channel < channels;
  float mean[V], square[V];
  for (int i = 0; i < V; ++i) mean[i] = square[i] = 0.0f;
  float count = 0.0f;
  if (active) {
    for (i64 row = s.start + s.row; row < s.end; row += s.step) {
      float x[V];
      load(p.x + row * channels + s.channel, x);
      count += 1.0f;
      float inverse = 1.0f / count;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        float d = x[i] - mean[i];
        mean[i] += d * inverse;
        square[i] += d * (x[i] - mean[i]);
      }
    }
  }
  const int t = (int)threadIdx.x;
  counts[t] = count;
  for (int i = 0; i < V; ++i) {
    means[i * 256 + t] = mean[i];
    squares[i * 256 + t] = square[i];
  }
  __syncthreads();
  for (int half = s.step / 2; half > 0; half /= 2) {
    if (s.row < half) {
      const int other = t + half * lanes;
      for (int i = 0; i < V; ++i) {
        join(means[i * 256 + t], squares[i * 256 + t], counts[t], means[i * 256 + other], squares[i * 256 + other],
             counts[other]);
      }
      counts[t] += counts[other];
    }
    __syncthreads();
  }
  if (s.row == 0 && active) {
    for (int i = 0; i < V; ++i) {
      float* part = p.parts + ((i64)blockIdx.y * channels + s.channel + i) * 2;
      part[0] = means[i * 256 + t];
      part[1] = squares[i * 256 + t];
    }
  }
  if (!comes_last(p.counter)) return;
  // All parts, in double precision: first the mean, then the squares about it.
  double* sums = memory;
  double total[V];
  for (int i = 0; i < V; ++i) total[i] = 0.0;
  if (active) {
    for (unsigned b = (unsigned)s.row; b < gridDim.y; b += (unsigned)s.step) {
      const double n = (double)(share_start(p.rows, b + 1) - share_start(p.rows, b));
      for (int i = 0; i < V; ++i) total[i] += n * p.parts[((i64)b * channels + s.channel + i) * 2];
    }
  }
  for (int i = 0; i < V; ++i) sums[i * 256 + t] = total[i];
  __syncthreads();
  double average[V];
  for (int i = 0; i < V; ++i) {
    average[i] = 0.0;
    for (int r = 0; r < s.step; ++r) average[i] += sums[i * 256 + t % lanes + r * lanes];
    average[i] /= (double)p.rows.rows;
    total[i] = 0.0;
  }
  __syncthreads();
  if (active) {
    for (unsigned b = (unsigned)s.row; b < gridDim.y; b += (unsigned)s.step) {
      const double n = (double)(share_start(p.rows, b + 1) - share_start(p.rows, b));
      for (int i = 0; i < V; ++i) {
        const float* part = p.parts + ((i64)b * channels + s.channel + i) * 2;
        const double d = (double)part[0] - average[i];
        total[i] += (double)part[1] + n * d * d;
      }
    }
  }
  for (int i = 0; i < V; ++i) sums[i * 256 + t] = total[i];
  __syncthreads();
  if (s.row == 0 && active) {
    for (int i = 0; i < V; ++i) {
      double sum = 0.0;
      for (int r = 0; r < s.step; ++r) sum += sums[i * 256 + t + r * lanes];
      const int c = s.channel + i;
      const float var = (float)(sum / (double)p.rows.rows);
      p.mean[c] = (float)average[i];
      p.var[c] = var;
      p.scale[c] = (float)((double)p.gamma[c] / sqrt((double)var + p.eps));
    }
  }
}

KERNEL(norm_measure, Measure) {
  __shared__ double memory[2 * 256 * 4];
  if (p.rows.vector == 4) {
    measure<4>(p, memory);
  } else if (p.rows.vector == 2) {
    measure<2>(p, memory);
  } else {
    measure<1>(p, memory);
  }
}

// scale = gamma / sqrt(var + eps), where the variance is given.
struct Scale {
  const float* gamma;
  const float* var;
  float* scale;
  double eps;
  int channels;
};

KERNEL_FLAT(norm_scale, Scale) {
  for (i64 c = global_thread(); c < p.channels; c += all_threads()) {
    p.scale[c] = (float)((double)p.gamma[c] / sqrt((double)p.var[c] + p.eps));
  }
}

// y = act(scale (x - mean) + beta + residual).
struct Apply {
  const Real* x;
  const Real* residual;  // null without one
  Real* y;
  const float* mean;
  const float* scale;
  const float* beta;
  Rows rows;
  float low, high;  // what y is kept in
};

// Threads side by side over channel groups, then over rows; every thread keeps its channels.
DEVICE bool place(const Rows& r, i64& row, i64& step, int& channel) {
  const i64 groups = r.channels / r.vector;
  step = all_threads() / groups;
  const i64 t = global_thread();
  row = t / groups;
  channel = (int)(t - row * groups) * r.vector;
  return row < step;
}

template <int V>
DEVICE void apply(const Apply& p) {
  i64 row, step;
  int c;
  if (!place(p.rows, row, step, c)) return;
  float mean[V], scale[V], beta[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    mean[i] = p.mean[c + i];
    scale[i] = p.scale[c + i];
    beta[i] = p.beta[c + i];
  }
  for (; row < p.rows.rows; row += step) {
    const i64 at = row * p.rows.channels + c;
    float x[V], residual[V];
    load(p.x + at, x);
    if (p.residual) load(p.residual + at, residual);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float y = scale[i] * (x[i] - mean[i]) + beta[i];
      if (p.residual) y += residual[i];
      x[i] = in_range(y, p.low, p.high);
    }
    store(p.y + at, x);
  }
}

KERNEL_FLAT(norm_apply, Apply) {
  if (p.rows.vector == 4) {
    apply<4>(p);
  } else if (p.rows.vector == 2) {
    apply<2>(p);
  } else {
    apply<1>(p);
  }
}

// Σ dz and Σ dz (x - mean) over all rows, and what the gradient of x needs of them.
struct Sums {
  const Real* x;  // null: only Σ dy, into d_beta
  const Real* y;  // null without an activation
  const Real* dy;
  const float* gamma;
  const float* mean;
  const float* var;
  float* parts;  // [gridDim.y, channels, 2]
  u32* counter;
  float* d_gamma;
  float* d_beta;
  float* factors;  // [3, channels]: dx = f0 dz - f1 (x - mean) - f2
  double eps;
  Rows rows;
  float low, high;  // what y was kept in
};

template <int V>
DEVICE void sum(const Sums& p, double* memory) {
  float* plain = reinterpret_cast<float*>(memory);
  float* centred = plain + 256 * V;
  const int channels = p.rows.channels, lanes = p.rows.lanes;
  const Share s = share(p.rows);
  const bool active = s.channel < channels;
  float a[V], b[V], mean[V];
  for (int i = 0; i < V; ++i) {
    a[i] = b[i] = 0.0f;
    mean[i] = p.x && active ? p.mean[s.channel + i] : 0.0f;
  }
  if (active) {
    for (i64 row = s.start + s.row; row < s.end; row += s.step) {
      const i64 at = row * channels + s.channel;
      float dz[V], other[V];
      load(p.dy + at, dz);
      if (p.y) {
        load(p.y + at, other);
#pragma unroll
        for (int i = 0; i < V; ++i) dz[i] = through(other[i], dz[i], p.low, p.high);
      }
      if (p.x) load(p.x + at, other);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        a[i] += dz[i];
        if (p.x) b[i] += dz[i] * (other[i] - mean[i]);
      }
    }
  }
  const int t = (int)threadIdx.x;
  for (int i = 0; i < V; ++i) {
    plain[i * 256 + t] = a[i];
    centred[i * 256 + t] = b[i];
  }
  __syncthreads();
  for (int half = s.step / 2; half > 0; half /= 2) {
    if (s.row < half) {
      const int other = t + half * lanes;
      for (int i = 0; i < V; ++i) {
        plain[i * 256 + t] += plain[i * 256 + other];
        centred[i * 256 + t] += centred[i * 256 + other];
      }
    }
    __syncthreads();
  }
  if (s.row == 0 && active) {
    for (int i = 0; i < V; ++i) {
      float* part = p.parts + ((i64)blockIdx.y * channels + s.channel + i) * 2;
      part[0] = plain[i * 256 + t];
      part[1] = centred[i * 256 + t];
    }
  }
  if (!comes_last(p.counter)) return;
  double* sums = memory;
  double total[2 * V];
  for (int i = 0; i < 2 * V; ++i) total[i] = 0.0;
  if (active) {
    for (unsigned block = (unsigned)s.row; block < gridDim.y; block += (unsigned)s.step) {
      for (int i = 0; i < V; ++i) {
        const float* part = p.parts + ((i64)block * channels + s.channel + i) * 2;
        total[2 * i] += part[0];
        total[2 * i + 1] += part[1];
      }
    }
  }
  for (int i = 0; i < 2 * V; ++i) sums[i * 256 + t] = total[i];
  __syncthreads();
  if (s.row == 0 && active) {
    for (int i = 0; i < V; ++i) {
      double d_beta = 0.0, d_gamma = 0.0;
      for (int r = 0; r < s.step; ++r) {
        d_beta += sums[2 * i * 256 + t + r * lanes];
        d_gamma += sums[(2 * i + 1) * 256 + t + r * lanes];
      }
      const int c = s.channel + i;
      p.d_beta[c] = (float)d_beta;
      if (p.x) {
        const double count = (double)p.rows.rows;
        const double inverse = 1.0 / sqrt((double)p.var[c] + p.eps);
        const double scale = (double)p.gamma[c] * inverse;
        p.d_gamma[c] = (float)(d_gamma * inverse);
        p.factors[c] = (float)scale;
        p.factors[channels + c] = (float)(scale * inverse * inverse * d_gamma / count);
        p.factors[2 * channels + c] = (float)(scale * d_beta / count);
      }
    }
  }
}

KERNEL(norm_sums, Sums) {
  __shared__ double memory[2 * 256 * 4];
  if (p.rows.vector == 4) {
    sum<4>(p, memory);
  } else if (p.rows.vector == 2) {
    sum<2>(p, memory);
  } else {
    sum<1>(p, memory);
  }
}

struct Backward {
  const Real* x;
  const Real* y;  // null without an activation
  const Real* dy;
  Real* dx;
  Real* dz;  // the residual's gradient, null where it is not wanted
  const float* mean;
  const float* factors;
  Rows rows;
  float low, high;  // what y was kept in
};

template <int V>
DEVICE void backward(const Backward& p) {
  i64 row, step;
  int c;
  if (!place(p.rows, row, step, c)) return;
  const int channels = p.rows.channels;
  float mean[V], f0[V], f1[V], f2[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    mean[i] = p.mean[c + i];
    f0[i] = p.factors[c + i];
    f1[i] = p.factors[channels + c + i];
    f2[i] = p.factors[2 * channels + c + i];
  }
  for (; row < p.rows.rows; row += step) {
    const i64 at = row * channels + c;
    float x[V], dz[V];
    load(p.dy + at, dz);
    if (p.y) {
      load(p.y + at, x);
#pragma unroll
      for (int i = 0; i < V; ++i) dz[i] = through(x[i], dz[i], p.low, p.high);
    }
    load(p.x + at, x);
    if (p.dz) store(p.dz + at, dz);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = f0[i] * dz[i] - f1[i] * (x[i] - mean[i]) - f2[i];
    store(p.dx + at, x);
  }
}

KERNEL_FLAT(norm_backward, Backward) {
  if (p.rows.vector == 4) {
    backward<4>(p);
  } else if (p.rows.vector == 2) {
    backward<2>(p);
  } else {
    backward<1>(p);
  }
}
