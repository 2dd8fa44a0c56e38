// Convolution as products of matrices that are gathered on the way ("implicit GEMM"), accumulated in float.
//
//   forward:          y[pixel, o]      = Σ_{u,v,c}  x[pixel + (u,v), c]  w[o, u, v, c]
//   input gradient:   dx[pixel, c]     = Σ_{u,v,o}  dy[pixel - (u,v), o] w[o, u, v, c]
//   weight gradient:  dw[o, (u, v, c)] = Σ_pixel    dy[pixel, o]         x[pixel + (u,v), c]
//
// A block computes 64 rows times N columns, a thread 4 times N / 16 of them; the depth is walked in steps of 16, and
// what the next step needs is fetched while this one is computed. Weights are [C_out, K_h, K_w, C_in / groups].

struct Conv {
  const Real* x;   // forward: x; input gradient: dy; weight gradient: x
  const Real* w;   // weight gradient: dy
  void* y;         // weight gradient: parts [splits, groups, o, kh kw c] of float
  const float* bias;
  int n, h, wide, c, x_channels;  // c and o are those of one group
  int oh, ow, o, y_channels;
  int kh, kw, stride, padding, groups;
  int splits;      // of the weight gradient's depth
};

const int ROWS = 64;
const int DEPTH = 16;

struct Place {
  int row, column;
};

// The loop over the depth. `A::fetch` and `B::fetch` read this thread's numbers of a tile, zeros beyond its edges, and
// move on by DEPTH; `at` says where they go.
template <int N, class A, class B>
DEVICE void product(A& a, B& b, int depth, float (&sum)[4][N / 16]) {
  __shared__ float as[DEPTH][ROWS + 4];
  __shared__ float bs[DEPTH][N + 4];
  const int ty = (int)threadIdx.x / 16 * 4, tx = (int)threadIdx.x % 16 * (N / 16);
  float left[4], right[N / 16];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < N / 16; ++j) sum[i][j] = 0.0f;
  }
  a.fetch(left);
  b.fetch(right);
  for (int k0 = 0; k0 < depth; k0 += DEPTH) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Place to = a.at(i);
      as[to.row][to.column] = left[i];
    }
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
      const Place to = b.at(i);
      bs[to.row][to.column] = right[i];
    }
    __syncthreads();
    if (k0 + DEPTH < depth) {
      a.fetch(left);
      b.fetch(right);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      float u[4], v[N / 16];
#pragma unroll
      for (int i = 0; i < 4; ++i) u[i] = as[k][ty + i];
#pragma unroll
      for (int j = 0; j < N / 16; ++j) v[j] = bs[k][tx + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < N / 16; ++j) sum[i][j] += u[i] * v[j];
      }
    }
    __syncthreads();
  }
}

// A position in the depth (tap, channel), or past its end.
struct Tap {
  int u, v, channel;

  METHOD void start(int k, int channels, int kw) {
    int tap = k / channels;
    channel = k - tap * channels;
    u = tap / kw;
    v = tap - u * kw;
  }

  METHOD void move(int channels, int kw) {
    channel += DEPTH;
    while (channel >= channels) {
      channel -= channels;
      if (++v == kw) {
        v = 0;
        ++u;
      }
    }
  }
};

// Pixels of all images, in order.
struct Walk {
  int n, i, j;

  METHOD void start(int pixel, int h, int w) {
    int row = pixel / w;
    j = pixel - row * w;
    n = row / h;
    i = row - n * h;
  }

  METHOD void move(int h, int w) {
    j += DEPTH;
    if (j >= w) {
      int rows = j / w;
      j -= rows * w;
      i += rows;
      if (i >= h) {
        int images = i / h;
        i -= images * h;
        n += images;
      }
    }
  }
};

// Rows of pixels of y: the input around each of them. Neighbouring threads take neighbouring channels.
struct Around {
  const Conv* p;
  const Real* x;
  Tap tap;
  int top[4], left[4];
  i64 image[4];

  METHOD void start(const Conv& conv, int first, int group) {
    p = &conv;
    x = conv.x + (i64)group * conv.c;
    tap.start((int)threadIdx.x % DEPTH, conv.c, conv.kw);
    for (int i = 0; i < 4; ++i) {
      const int pixel = first + (int)threadIdx.x / DEPTH + 16 * i;
      Walk w;
      w.start(pixel, conv.oh, conv.ow);
      top[i] = w.i * conv.stride - conv.padding;
      left[i] = w.j * conv.stride - conv.padding;
      image[i] = w.n < conv.n ? (i64)w.n * conv.h : -1;
    }
  }

  METHOD void fetch(float (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = top[i] + tap.u, column = left[i] + tap.v;
      const bool inside = tap.u < p->kh && image[i] >= 0 && row >= 0 && row < p->h && column >= 0 && column < p->wide;
      to[i] = inside ? to_float(x[((image[i] + row) * p->wide + column) * p->x_channels + tap.channel]) : 0.0f;
    }
    tap.move(p->c, p->kw);
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x % DEPTH, (int)threadIdx.x / DEPTH + 16 * i}; }
};

// Columns of filters, each contiguous over the depth.
template <int N>
struct Filters {
  const Real* w;
  int k, depth, count, first;

  METHOD void start(const Conv& conv, int first_filter, int group) {
    depth = conv.kh * conv.kw * conv.c;
    w = conv.w + (i64)group * conv.o * depth;
    k = (int)threadIdx.x % DEPTH;
    first = first_filter + (int)threadIdx.x / DEPTH;
    count = conv.o;
  }

  METHOD void fetch(float (&to)[N / 16]) {
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
      const int o = first + 16 * i;
      to[i] = k < depth && o < count ? to_float(w[(i64)o * depth + k]) : 0.0f;
    }
    k += DEPTH;
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x % DEPTH, (int)threadIdx.x / DEPTH + 16 * i}; }
};

template <int N>
DEVICE void forward(const Conv& p) {
  const int row = (int)blockIdx.x * ROWS, column = (int)blockIdx.y * N, group = (int)blockIdx.z;
  Around a;
  Filters<N> b;
  a.start(p, row, group);
  b.start(p, column, group);
  float sum[4][N / 16];
  product<N>(a, b, p.kh * p.kw * p.c, sum);
  const int pixels = p.n * p.oh * p.ow;
  Real* y = static_cast<Real*>(p.y);
  for (int i = 0; i < 4; ++i) {
    const int pixel = row + (int)threadIdx.x / 16 * 4 + i;
    for (int j = 0; j < N / 16; ++j) {
      const int o = column + (int)threadIdx.x % 16 * (N / 16) + j;
      if (pixel < pixels && o < p.o) {
        const float bias = p.bias ? p.bias[group * p.o + o] : 0.0f;
        from_float(y[(i64)pixel * p.y_channels + group * p.o + o], sum[i][j] + bias);
      }
    }
  }
}

KERNEL(conv_forward_16, Conv) { forward<16>(p); }
KERNEL(conv_forward_32, Conv) { forward<32>(p); }
KERNEL(conv_forward_64, Conv) { forward<64>(p); }

// Rows of pixels of x: the outputs that saw each of them.
struct Seen {
  const Conv* p;
  const Real* dy;
  Tap tap;
  int bottom[4], right[4];
  i64 image[4];

  METHOD void start(const Conv& conv, int first, int group) {
    p = &conv;
    dy = conv.x + (i64)group * conv.o;
    tap.start((int)threadIdx.x % DEPTH, conv.o, conv.kw);
    for (int i = 0; i < 4; ++i) {
      const int pixel = first + (int)threadIdx.x / DEPTH + 16 * i;
      Walk w;
      w.start(pixel, conv.h, conv.wide);
      bottom[i] = w.i + conv.padding;
      right[i] = w.j + conv.padding;
      image[i] = w.n < conv.n ? (i64)w.n * conv.oh : -1;
    }
  }

  METHOD void fetch(float (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int down = bottom[i] - tap.u, across = right[i] - tap.v;
      bool inside = tap.u < p->kh && image[i] >= 0 && down >= 0 && across >= 0;
      int row = down, column = across;
      if (p->stride != 1) {
        row = down / p->stride;
        column = across / p->stride;
        inside = inside && row * p->stride == down && column * p->stride == across;
      }
      inside = inside && row < p->oh && column < p->ow;
      to[i] = inside ? to_float(dy[((image[i] + row) * p->ow + column) * p->y_channels + tap.channel]) : 0.0f;
    }
    tap.move(p->o, p->kw);
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x % DEPTH, (int)threadIdx.x / DEPTH + 16 * i}; }
};

// Columns of input channels; the depth runs over taps and filters.
template <int N>
struct Turned {
  const Conv* p;
  const Real* w;
  Tap tap[N / 16];
  int c;

  METHOD void start(const Conv& conv, int first, int group) {
    p = &conv;
    w = conv.w + (i64)group * conv.o * conv.kh * conv.kw * conv.c;
    c = first + (int)threadIdx.x % N;
    for (int i = 0; i < N / 16; ++i) tap[i].start((int)threadIdx.x / N + 256 / N * i, conv.o, conv.kw);
  }

  METHOD void fetch(float (&to)[N / 16]) {
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
      const Tap t = tap[i];
      const bool inside = t.u < p->kh && c < p->c;
      to[i] = inside ? to_float(w[(((i64)t.channel * p->kh + t.u) * p->kw + t.v) * p->c + c]) : 0.0f;
      tap[i].move(p->o, p->kw);
    }
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x / N + 256 / N * i, (int)threadIdx.x % N}; }
};

template <int N>
DEVICE void input_gradient(const Conv& p) {
  const int row = (int)blockIdx.x * ROWS, column = (int)blockIdx.y * N, group = (int)blockIdx.z;
  Seen a;
  Turned<N> b;
  a.start(p, row, group);
  b.start(p, column, group);
  float sum[4][N / 16];
  product<N>(a, b, p.kh * p.kw * p.o, sum);
  const int pixels = p.n * p.h * p.wide;
  Real* dx = static_cast<Real*>(p.y);
  for (int i = 0; i < 4; ++i) {
    const int pixel = row + (int)threadIdx.x / 16 * 4 + i;
    for (int j = 0; j < N / 16; ++j) {
      const int c = column + (int)threadIdx.x % 16 * (N / 16) + j;
      if (pixel < pixels && c < p.c) from_float(dx[(i64)pixel * p.x_channels + group * p.c + c], sum[i][j]);
    }
  }
}

KERNEL(conv_input_16, Conv) { input_gradient<16>(p); }
KERNEL(conv_input_32, Conv) { input_gradient<32>(p); }
KERNEL(conv_input_64, Conv) { input_gradient<64>(p); }

// Rows of filters, the depth being pixels of y from `start` to `end`.
struct Outputs {
  const Real* dy;
  i64 width;
  int pixel, end, o, count;

  METHOD void start(const Conv& conv, int first, int group, int from, int to) {
    dy = conv.w + (i64)group * conv.o;
    width = conv.y_channels;
    o = first + (int)threadIdx.x % ROWS;
    count = conv.o;
    pixel = from + (int)threadIdx.x / ROWS;
    end = to;
  }

  METHOD void fetch(float (&to)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = pixel + 4 * i;
      to[i] = at < end && o < count ? to_float(dy[at * width + o]) : 0.0f;
    }
    pixel += DEPTH;
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x / ROWS + 4 * i, (int)threadIdx.x % ROWS}; }
};

// Columns of taps and input channels.
template <int N>
struct Inputs {
  const Conv* p;
  const Real* x;
  Tap tap;
  Walk walk[N / 16];
  int pixel, end;

  METHOD void start(const Conv& conv, int first, int group, int from, int to) {
    p = &conv;
    x = conv.x + (i64)group * conv.c;
    tap.start(first + (int)threadIdx.x % N, conv.c, conv.kw);
    pixel = from + (int)threadIdx.x / N;
    end = to;
    for (int i = 0; i < N / 16; ++i) walk[i].start(pixel + 256 / N * i, conv.oh, conv.ow);
  }

  METHOD void fetch(float (&to)[N / 16]) {
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
      const int row = walk[i].i * p->stride - p->padding + tap.u;
      const int column = walk[i].j * p->stride - p->padding + tap.v;
      const bool inside = tap.u < p->kh && pixel + 256 / N * i < end && row >= 0 && row < p->h && column >= 0 &&
                          column < p->wide;
      to[i] = inside
                  ? to_float(x[(((i64)walk[i].n * p->h + row) * p->wide + column) * p->x_channels + tap.channel])
                  : 0.0f;
      walk[i].move(p->oh, p->ow);
    }
    pixel += DEPTH;
  }

  METHOD Place at(int i) const { return {(int)threadIdx.x / N + 256 / N * i, (int)threadIdx.x % N}; }
};

template <int N>
DEVICE void weight_gradient(const Conv& p) {
  const int row = (int)blockIdx.x * ROWS, column = (int)blockIdx.y * N;
  const int split = (int)blockIdx.z / p.groups, group = (int)blockIdx.z % p.groups;
  const int pixels = p.n * p.oh * p.ow;
  const int size = (pixels + p.splits - 1) / p.splits;
  const int from = split * size < pixels ? split * size : pixels;
  const int to = from + size < pixels ? from + size : pixels;
  Outputs a;
  Inputs<N> b;
  a.start(p, row, group, from, to);
  b.start(p, column, group, from, to);
  float sum[4][N / 16];
  product<N>(a, b, to - from, sum);
  const int columns = p.kh * p.kw * p.c;
  float* part = static_cast<float*>(p.y) + ((i64)split * p.groups + group) * p.o * columns;
  for (int i = 0; i < 4; ++i) {
    const int o = row + (int)threadIdx.x / 16 * 4 + i;
    for (int j = 0; j < N / 16; ++j) {
      const int k = column + (int)threadIdx.x % 16 * (N / 16) + j;
      if (o < p.o && k < columns) part[(i64)o * columns + k] = sum[i][j];
    }
  }
}

KERNEL(conv_weight_16, Conv) { weight_gradient<16>(p); }
KERNEL(conv_weight_32, Conv) { weight_gradient<32>(p); }
KERNEL(conv_weight_64, Conv) { weight_gradient<64>(p); }

// Sums parts [splits, o, taps, c] in their order, and turns them to [o, c, taps].
struct Join {
  const float* parts;
  float* dw;
  i64 o, c, taps;
  int splits;
};

KERNEL_FLAT(conv_weight_join, Join) {
  const i64 size = p.o * p.c * p.taps;
  for (i64 i = global_thread(); i < size; i += all_threads()) {
    const i64 row = i / p.taps, tap = i - row * p.taps;
    const i64 o = row / p.c, c = row - o * p.c;
    const i64 at = (o * p.taps + tap) * p.c + c;
    float sum = 0.0f;
    for (int split = 0; split < p.splits; ++split) sum += p.parts[split * size + at];
    p.dw[i] = sum;
  }
}

// y += bias, for convolutions by cuDNN.
struct AddBias {
  Real* y;
  const float* bias;
  i64 count;
  int channels;
};

KERNEL_FLAT(add_bias, AddBias) {
  for (i64 i = global_thread(); i < p.count; i += all_threads()) {
    from_float(p.y[i], to_float(p.y[i]) + p.bias[i % p.channels]);
  }
}
