// weightcast for libtorch, header-only over libweightcast.
//
// Trainer:  Hooked<Optimizer>, attach(), Publication.   Engine:  Follower<Module>, FollowerLease.
#pragma once

#if !__has_include(<torch/optim/optimizer.h>)
#error "weightcast/torch.hpp needs libtorch, which its user brings: add include/ and include/torch/csrc/api/include of an installed torch package to the include directories, and link torch_cpu and c10 (docs/install.md)"
#endif

#include <weightcast/torch/attach.hpp>
#include <weightcast/torch/dtype.hpp>
#include <weightcast/torch/follower.hpp>
#include <weightcast/torch/hooked.hpp>
#include <weightcast/torch/tensor_source.hpp>
