// What the files of the examples' libraries read most.
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>
#include <torch/utils.h>
