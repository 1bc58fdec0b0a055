// The table: every key of the trainer's and of the worker's side.
#pragma once

#include <string_view>
#include <vector>

#include "config/key.hpp"
#include "config/settings.hpp"

namespace weightcast::config {

const std::vector<Key<TrainerSettings>>& trainer_keys();
const std::vector<Key<WorkerSettings>>& worker_keys();

template <class S>
const std::vector<Key<S>>& keys_of();
template <>
inline const std::vector<Key<TrainerSettings>>& keys_of() {
  return trainer_keys();
}
template <>
inline const std::vector<Key<WorkerSettings>>& keys_of() {
  return worker_keys();
}

/// Null if that side has no such key.
template <class S>
const Key<S>* find_key(std::string_view name) {
  for (const Key<S>& key : keys_of<S>()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

}  // namespace weightcast::config
