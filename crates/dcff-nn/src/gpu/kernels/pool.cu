// Pooling. A thread computes one number; neighbouring threads have neighbouring channels.

struct Pool {
  const Real* from;
  Real* to;
  u8* taps;  // of max pooling: row times kernel plus column of each maximum
  int n, h, w, c;
  int oh, ow;
  int kernel, stride, padding;
};

// The number `i` of maps [n, h, w, c].
struct Pixel {
  i64 n;
  int i, j, c;
};

DEVICE Pixel pixel_of(i64 at, int h, int w, int c) {
  Pixel x;
  i64 row = at / c;
  x.c = (int)(at - row * c);
  x.j = (int)(row % w);
  row /= w;
  x.i = (int)(row % h);
  x.n = row / h;
  return x;
}

KERNEL_FLAT(max_pool, Pool) {
  i64 count = (i64)p.n * p.oh * p.ow * p.c;
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    Pixel o = pixel_of(at, p.oh, p.ow, p.c);
    float best = 0.0f;
    int tap = -1;
    for (int u = 0; u < p.kernel; ++u) {
      int i = o.i * p.stride - p.padding + u;
      if (i < 0 || i >= p.h) continue;
      for (int v = 0; v < p.kernel; ++v) {
        int j = o.j * p.stride - p.padding + v;
        if (j < 0 || j >= p.w) continue;
        float x = to_float(p.from[((o.n * p.h + i) * p.w + j) * p.c + o.c]);
        // The first of equal ones; NaN wins.
        if (tap < 0 || x > best || (x != x && best == best)) {
          best = x;
          tap = u * p.kernel + v;
        }
      }
    }
    from_float(p.to[at], best);
    p.taps[at] = (u8)tap;
  }
}

// The windows that cover pixel `i` of an axis: from `first` to `last`.
DEVICE void windows(int i, int padding, int kernel, int stride, int size, int& first, int& last) {
  int reach = i + padding - kernel + 1;
  first = reach > 0 ? (reach + stride - 1) / stride : 0;
  last = (i + padding) / stride;
  if (last > size - 1) last = size - 1;
}

KERNEL_FLAT(max_pool_backward, Pool) {
  i64 count = (i64)p.n * p.h * p.w * p.c;
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    Pixel x = pixel_of(at, p.h, p.w, p.c);
    int top, bottom, left, right;
    windows(x.i, p.padding, p.kernel, p.stride, p.oh, top, bottom);
    windows(x.j, p.padding, p.kernel, p.stride, p.ow, left, right);
    float sum = 0.0f;
    for (int i = top; i <= bottom; ++i) {
      for (int j = left; j <= right; ++j) {
        int tap = (x.i + p.padding - i * p.stride) * p.kernel + x.j + p.padding - j * p.stride;
        i64 o = ((x.n * p.oh + i) * p.ow + j) * p.c + x.c;
        if (p.taps[o] == tap) sum += to_float(p.from[o]);
      }
    }
    from_float(p.to[at], sum);
  }
}

KERNEL_FLAT(avg_pool, Pool) {
  i64 count = (i64)p.n * p.oh * p.ow * p.c;
  float share = 1.0f / (float)(p.kernel * p.kernel);
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    Pixel o = pixel_of(at, p.oh, p.ow, p.c);
    float sum = 0.0f;
    for (int u = 0; u < p.kernel; ++u) {
      int i = o.i * p.stride - p.padding + u;
      if (i < 0 || i >= p.h) continue;
      for (int v = 0; v < p.kernel; ++v) {
        int j = o.j * p.stride - p.padding + v;
        if (j >= 0 && j < p.w) sum += to_float(p.from[((o.n * p.h + i) * p.w + j) * p.c + o.c]);
      }
    }
    from_float(p.to[at], sum * share);
  }
}

KERNEL_FLAT(avg_pool_backward, Pool) {
  i64 count = (i64)p.n * p.h * p.w * p.c;
  float share = 1.0f / (float)(p.kernel * p.kernel);
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    Pixel x = pixel_of(at, p.h, p.w, p.c);
    int top, bottom, left, right;
    windows(x.i, p.padding, p.kernel, p.stride, p.oh, top, bottom);
    windows(x.j, p.padding, p.kernel, p.stride, p.ow, left, right);
    float sum = 0.0f;
    for (int i = top; i <= bottom; ++i) {
      for (int j = left; j <= right; ++j) sum += to_float(p.from[((x.n * p.oh + i) * p.ow + j) * p.c + x.c]);
    }
    from_float(p.to[at], sum * share);
  }
}

// The mean over h w pixels; oh, ow and the window are unused.
KERNEL_FLAT(global_pool, Pool) {
  i64 count = (i64)p.n * p.c;
  i64 pixels = (i64)p.h * p.w;
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    i64 n = at / p.c;
    const Real* from = p.from + n * pixels * p.c + (at - n * p.c);
    float sum = 0.0f;
    for (i64 i = 0; i < pixels; ++i) sum += to_float(from[i * p.c]);
    from_float(p.to[at], sum / (float)pixels);
  }
}

KERNEL_FLAT(global_pool_backward, Pool) {
  i64 count = (i64)p.n * p.h * p.w * p.c;
  i64 image = (i64)p.h * p.w * p.c;
  float share = 1.0f / (float)((i64)p.h * p.w);
  for (i64 at = global_thread(); at < count; at += all_threads()) {
    i64 n = at / image;
    from_float(p.to[at], to_float(p.from[n * p.c + at % p.c]) * share);
  }
}
