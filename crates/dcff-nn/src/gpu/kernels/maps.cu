// Layouts, activations, sums, channels side by side, and the shortcut without parameters.

// Between [A, C, P] in float (candle's order) and [A, P, C]: maps with P pixels, weights with P taps.
struct Permute {
  const void* from;
  void* to;
  i64 a, c, p;
};

KERNEL_FLAT(permute_in, Permute) {
  const float* from = static_cast<const float*>(p.from);
  Real* to = static_cast<Real*>(p.to);
  i64 count = p.a * p.c * p.p;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 row = i / p.c, c = i - row * p.c;
    i64 a = row / p.p, pixel = row - a * p.p;
    from_float(to[i], from[(a * p.c + c) * p.p + pixel]);
  }
}

KERNEL_FLAT(permute_out, Permute) {
  const Real* from = static_cast<const Real*>(p.from);
  float* to = static_cast<float*>(p.to);
  i64 count = p.a * p.c * p.p;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 plane = i / p.p, pixel = i - plane * p.p;
    i64 a = plane / p.c, c = plane - a * p.c;
    to[i] = to_float(from[(a * p.p + pixel) * p.c + c]);
  }
}

// y = rule(a, b), number by number.
struct Elementwise {
  const Real* a;
  const Real* b;
  Real* y;
  i64 count;
  int rule;  // 0: a in low..high, 1: b where a lies inside, 2: a + b, 3: a + b in low..high
  float low, high;
};

DEVICE float rule_of(const Elementwise& p, float a, float b) {
  if (p.rule == 0) return in_range(a, p.low, p.high);
  if (p.rule == 1) return through(a, b, p.low, p.high);
  float sum = a + b;
  return p.rule == 2 ? sum : in_range(sum, p.low, p.high);
}

KERNEL_FLAT(elementwise, Elementwise) {
  // Blocks of maps start at multiples of 256 bytes.
  i64 packs = p.count / 4;
  for (i64 i = global_thread(); i < packs; i += all_threads()) {
    float a[4], b[4], y[4];
    load(p.a + 4 * i, a);
    load(p.b + 4 * i, b);
#pragma unroll
    for (int j = 0; j < 4; ++j) y[j] = rule_of(p, a[j], b[j]);
    store(p.y + 4 * i, y);
  }
  for (i64 i = 4 * packs + global_thread(); i < p.count; i += all_threads()) {
    from_float(p.y[i], rule_of(p, to_float(p.a[i]), to_float(p.b[i])));
  }
}

// Channels from..from + count of x become to..to + count of y.
struct CopyChannels {
  const Real* x;
  Real* y;
  i64 rows;
  int x_channels, y_channels, from, to, count;
};

KERNEL_FLAT(copy_channels, CopyChannels) {
  i64 count = p.rows * p.count;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 row = i / p.count;
    int c = (int)(i - row * p.count);
    p.y[row * p.y_channels + p.to + c] = p.x[row * p.x_channels + p.from + c];
  }
}

// Every stride-th pixel; `before` channels of zeros go before the input's (negative: are cropped).
struct Shortcut {
  const Real* from;
  Real* to;
  int n, h, w, c;  // the large map's
  int oh, ow, oc;  // the small map's
  int stride, before;
};

KERNEL_FLAT(shortcut, Shortcut) {
  i64 count = (i64)p.n * p.oh * p.ow * p.oc;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 row = i / p.oc;
    int c = (int)(i - row * p.oc) - p.before;
    int j = (int)(row % p.ow);
    row /= p.ow;
    int k = (int)(row % p.oh);
    i64 n = row / p.oh;
    if (c >= 0 && c < p.c) {
      p.to[i] = p.from[((n * p.h + (i64)k * p.stride) * p.w + (i64)j * p.stride) * p.c + c];
    } else {
      from_float(p.to[i], 0.0f);
    }
  }
}

KERNEL_FLAT(shortcut_backward, Shortcut) {
  i64 count = (i64)p.n * p.h * p.w * p.c;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 row = i / p.c;
    int o = (int)(i - row * p.c) + p.before;
    int j = (int)(row % p.w);
    row /= p.w;
    int k = (int)(row % p.h);
    i64 n = row / p.h;
    if (o >= 0 && o < p.oc && k % p.stride == 0 && j % p.stride == 0) {
      p.to[i] = p.from[((n * p.oh + k / p.stride) * p.ow + j / p.stride) * p.oc + o];
    } else {
      from_float(p.to[i], 0.0f);
    }
  }
}
