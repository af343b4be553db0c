/* Accumulation and the fused optimizer updates: one element a thread, all of it at once. */
#include "backend/cuda/steps.cuh"

#include "graph/optimizer.h"

template <class T> GLOBAL void accumulate(int64_t n, const T *term, T *sum) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    sum[i] += term[i];
}

void launch_accumulate(cudaStream_t s, DType type, int64_t n, const void *term, void *sum) {
  FOR_FLOATS(type, launch(accumulate<T>, blocks_for(n), BLOCK_THREADS, s, n, (const T *)term, (T *)sum))
}

/* The parameter's gradient: the groups added from the left, times the step's factor. */
template <class T> DEVICE T gradient_at(const UpdateWork &w, int64_t i) {
  T sum = ((const T *)w.groups[0])[i];
  for (int k = 1; k < w.n_groups; k++)
    sum += ((const T *)w.groups[k])[i];
  return sum * (T)w.scalars[SCALAR_GRADIENT_FACTOR];
}

/* torch.optim.SGD. */
template <class T> GLOBAL void sgd(int64_t n, UpdateWork w) {
  T *p = (T *)w.parameter, *momentum = (T *)w.momentum;
  T rate = (T)w.scalars[SCALAR_LEARNING_RATE], mu = (T)w.momentum_factor, decay = (T)w.decay;
  bool first = w.scalars[SCALAR_FIRST_STEP] != 0;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    T g = gradient_at<T>(w, i);
    if (decay != 0)
      g += decay * p[i];
    if (momentum) {
      T m = first ? g : mu * momentum[i] + g;
      momentum[i] = m;
      g = w.nesterov ? g + mu * m : m;
    }
    p[i] -= rate * g;
  }
}

/* torch.optim.Adam, AdamW. */
template <class T> GLOBAL void adam(int64_t n, UpdateWork w) {
  T *p = (T *)w.parameter, *m = (T *)w.momentum, *v = (T *)w.variance;
  double rate = w.scalars[SCALAR_LEARNING_RATE];
  T keep = (T)(w.decoupled ? 1 - rate * w.decay : 1), decay = (T)(w.decoupled ? 0 : w.decay);
  T toward1 = (T)(1 - w.beta1), beta2 = (T)w.beta2, toward2 = (T)(1 - w.beta2), epsilon = (T)w.epsilon;
  T step = (T)(rate / w.scalars[SCALAR_BIAS_CORRECTION1]), root = (T)sqrt(w.scalars[SCALAR_BIAS_CORRECTION2]);
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    T weight = p[i] * keep, g = gradient_at<T>(w, i) + decay * weight;
    T mean = m[i] + toward1 * (g - m[i]), variance = v[i] * beta2 + toward2 * g * g;
    m[i] = mean;
    v[i] = variance;
    p[i] = weight - step * mean / (sqrt(variance) / root + epsilon);
  }
}

void launch_sgd(cudaStream_t s, DType type, int64_t n, const UpdateWork *work) {
  FOR_FLOATS(type, launch(sgd<T>, blocks_for(n), BLOCK_THREADS, s, n, *work))
}

void launch_adam(cudaStream_t s, DType type, int64_t n, const UpdateWork *work) {
  FOR_FLOATS(type, launch(adam<T>, blocks_for(n), BLOCK_THREADS, s, n, *work))
}
