#include "onnx/internal.h"
Status train_rules_apply(Model *model, const TrainOptions *options) {
  (void)model;
  (void)options;
  return OK;
}
Status ties_find(Model *model) {
  (void)model;
  return OK;
}
