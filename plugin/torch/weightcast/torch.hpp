// weightcast for libtorch, header-only over libweightcast.
//
// Trainer:  Hooked<Optimizer>, attach(), Publication.   Engine:  Follower<Module>, FollowerLease.
#pragma once

#include <weightcast/torch/attach.hpp>
#include <weightcast/torch/dtype.hpp>
#include <weightcast/torch/follower.hpp>
#include <weightcast/torch/hooked.hpp>
#include <weightcast/torch/tensor_source.hpp>
