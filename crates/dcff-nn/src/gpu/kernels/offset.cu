// A constant added to maps: one number for each channel and place relative to the border, and its gradient.

struct Offset {
  const Real* x;  // of the gradient: dy
  float* o;       // [C, R, S]
  Real* y;
  int n, h, w, c;
  int top, bottom, left, right;
};

DEVICE int offset_place(int i, int size, int before, int after) {
  if (i < before) return i;
  return i + after >= size ? before + 1 + after + i - size : before;
}

KERNEL_FLAT(offset, Offset) {
  const int rows = p.top + 1 + p.bottom, columns = p.left + 1 + p.right;
  i64 count = (i64)p.n * p.h * p.w * p.c;
  for (i64 i = global_thread(); i < count; i += all_threads()) {
    i64 pixel = i / p.c;
    int c = (int)(i - pixel * p.c);
    int row = offset_place((int)(pixel / p.w % p.h), p.h, p.top, p.bottom);
    int column = offset_place((int)(pixel % p.w), p.w, p.left, p.right);
    from_float(p.y[i], to_float(p.x[i]) + p.o[((i64)c * rows + row) * columns + column]);
  }
}

// A thread for every sum; networks have few offsets, and small ones.
KERNEL_FLAT(offset_backward, Offset) {
  const int rows = p.top + 1 + p.bottom, columns = p.left + 1 + p.right;
  i64 count = (i64)p.c * rows * columns;
  for (i64 t = global_thread(); t < count; t += all_threads()) {
    int c = (int)(t / (rows * columns)), row = (int)(t / columns % rows), column = (int)(t % columns);
    int i0 = row <= p.top ? row : p.h - (rows - row), i1 = row == p.top ? p.h - p.bottom : i0 + 1;
    int j0 = column <= p.left ? column : p.w - (columns - column);
    int j1 = column == p.left ? p.w - p.right : j0 + 1;
    double sum = 0.0;
    for (i64 n = 0; n < p.n; ++n) {
      for (int i = i0; i < i1; ++i) {
        for (int j = j0; j < j1; ++j) sum += to_float(p.x[((n * p.h + i) * p.w + j) * p.c + c]);
      }
    }
    p.o[t] = (float)sum;
  }
}
